"""`python -m morpheus_devstack` is `morpheus`."""

from morpheus_devstack.cli import main

if __name__ == "__main__":
    main()
