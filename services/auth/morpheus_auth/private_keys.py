"""What a private key of Ethereum is, the address that belongs to it, and those that everybody knows."""

import re

from cryptography.hazmat.primitives.asymmetric.ec import SECP256K1, derive_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from morpheus_common.errors import ApiError

# both come with eth-account, which takes three times as long to import; and an `eth_keys.PrivateKey` shows its key in
# its repr, which a traceback may print

ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
"""Of secp256k1 (SEC 2, section 2.4.1): a key is a number from 1 to one less."""
SMALLEST = 2**64
"""Below this a key was counted, not drawn: chance gives one such in 2^192."""
EXPECTED = (
    "private_key has to be 64 hex digits, with or without 0x before them and nothing else around or between, that are a "
    "number below the order of secp256k1 and not zero. Nothing is cut off or filled up."
)
_FORM = re.compile(rb"(?:0x)?([0-9a-fA-F]{64})")

DEVELOPMENT_ADDRESSES = frozenset(
    {
        # Hardhat and Anvil, "test test … junk", m/44'/60'/0'/0/0 to 19
        "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
        "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
        "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
        "0x90F79bf6EB2c4f870365E785982E1f101E93b906",
        "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65",
        "0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc",
        "0x976EA74026E726554dB657fA54763abd0C3a0aa9",
        "0x14dC79964da2C08b23698B3D3cc7Ca32193d9955",
        "0x23618e81E3f5cdF7f54C3d65f7FBc0aBf5B21E8f",
        "0xa0Ee7A142d267C1f36714E4a8F75612F20a79720",
        "0xBcd4042DE499D14e55001CcbB24a551F3b954096",
        "0x71bE63f3384f5fb98995898A86B02Fb2426c5788",
        "0xFABB0ac9d68B0B445fB7357272Ff202C5651694a",
        "0x1CBd3b2770909D4e10f157cABC84C7264073C9Ec",
        "0xdF3e18d64BC6A983f673Ab319CCaE4f1a57C7097",
        "0xcd3B766CCDd6AE721141F452C550Ca635964ce71",
        "0x2546BcD3c84621e976D8185a91A922aE77ECEc30",
        "0xbDA5747bFD65F08deb54cb465eB87D40e51B197E",
        "0xdD2FD4581271e230360230F9337D5c0430Bf44C0",
        "0x8626f6940E2eb28930eFb4CeF49B2d1F2C9C1199",
        # Ganache --deterministic, "myth like bonus …", m/44'/60'/0'/0/0 to 9
        "0x90F8bf6A479f320ead074411a4B0e7944Ea8c9C1",
        "0xFFcf8FDEE72ac11b5c542428B35EEF5769C409f0",
        "0x22d491Bde2303f2f43325b2108D26f1eAbA1e32b",
        "0xE11BA2b4D45Eaed5996Cd0823791E0C93114882d",
        "0xd03ea8624C8C5987235048901fB614fDcA89b117",
        "0x95cED938F7991cd0dFcb48F0a06a40FA1aF46EBC",
        "0x3E5e9111Ae8eB78Fe1CC3bb8915d5D461F3Ef9A9",
        "0x28a8746e75304c0780E011BEd21C72cD78cd535E",
        "0xACa94ef8bD5ffEE41947b4585a84BdA5a3d3DA6E",
        "0x1dF62f291b2E969fB0849d99D9Ce41e2F137006e",
    }
)


def read_private_key(text: bytes) -> bytes:
    """Return the 32 bytes that `text` stands for. Raises `ApiError` (validation_error), which never quotes it."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ApiError("validation_error", EXPECTED, param="private_key")
    key = bytes.fromhex(match[1].decode("ascii"))
    if not 0 < int.from_bytes(key, "big") < ORDER:
        raise ApiError("validation_error", EXPECTED, param="private_key")
    return key


def address_of(key: bytes) -> str:
    """Return the address of a private key (32 bytes) with the checksum of EIP-55."""
    public = derive_private_key(int.from_bytes(key, "big"), SECP256K1()).public_key()
    point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    # the first byte says that the two coordinates follow whole
    return to_checksum_address(keccak(point[1:])[-20:])


def is_development_key(key: bytes, address: str) -> bool:
    """Tell whether everybody knows this key: an account of a development chain, or a number that was counted."""
    scalar = int.from_bytes(key, "big")
    return address in DEVELOPMENT_ADDRESSES or scalar < SMALLEST or len(set(key)) == 1
