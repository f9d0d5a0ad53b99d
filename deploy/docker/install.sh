#!/bin/sh
# What the Dockerfile runs to fill /opt/morpheus, the same for every target:
#   install.sh uv                 uv into /opt/uv, from requirements/bootstrap.lock
#   install.sh NAME               /opt/morpheus from requirements/NAME.lock
#   install.sh packages FOLDER…   packages of this repository into it, bytecode, and times that do not tell when it was built
set -eu

# where packages come from, and whom to trust about it: a mirror of one's own is in no image and in no file here
if [ -r /run/secrets/registry ]; then
    set -a
    . /run/secrets/registry
    set +a
fi

uv=/opt/uv/bin/uv
python=/opt/morpheus/bin/python

case "$1" in
uv)
    python3 -m venv /opt/uv
    /opt/uv/bin/pip --disable-pip-version-check install --quiet --no-cache-dir --require-hashes \
        --requirement requirements/bootstrap.lock
    mkdir /opt/empty
    ;;
packages)
    shift
    $uv pip install --quiet --offline --python $python --no-deps "$@"
    cp deploy/docker/healthcheck.py /opt/morpheus/healthcheck.py
    # what nothing imports: sources of what is compiled, tests of others
    find /opt/morpheus/lib \( -name '*.c' -o -name '*.h' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.pyx' \) -type f -delete
    find /opt/morpheus/lib -path '*/site-packages/*' -type d \( -name SelfTest -o -name tests \) -prune -exec rm -rf {} +
    # and what is large: colours of 500 languages but Python's, brokers that are not ours
    find /opt/morpheus/lib -path '*/pygments/lexers/*' -name '*.py' \
        ! -name __init__.py ! -name _mapping.py ! -name python.py -delete
    for broker in confluent kafka mqtt rabbit redis; do
        rm -rf /opt/morpheus/lib/python3*/site-packages/faststream/$broker
    done
    # these two say where and when it was installed
    find /opt/morpheus \( -name direct_url.json -o -name uv_cache.json \) -delete
    find /opt/morpheus -name RECORD -exec sed -i '/\/direct_url\.json,/d; /\/uv_cache\.json,/d' {} +
    # bytecode that is never held against its source: a file's time does not matter then, and the root can be read-only
    $python -m compileall -q --invalidation-mode unchecked-hash /opt/morpheus/lib
    find /opt/morpheus /opt/empty -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +
    ;;
*)
    $uv venv --quiet --python python3 /opt/morpheus
    $uv pip sync --quiet --python $python --require-hashes --build-constraints requirements/bootstrap.lock \
        "requirements/$1.lock"
    ;;
esac
