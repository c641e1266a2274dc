"""Public keys of a policy, which verify the signatures that cosign makes with the private keys.

What verifies is imported with the first key: most policies have none.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key in PEM; `name` is what messages call it.

    ECDSA on P-256, P-384 or P-521, Ed25519, or RSA of at least 2,048 bits. Raises ValueError for anything
    else, without repeating it.
    """

    name: str
    pem: str

    def __post_init__(self) -> None:
        from gateway.kits.key_schemes import load_key

        try:
            load_key(self.pem)
        except ValueError as error:
            raise ValueError(
                f"{self.name} is no usable public key: {error}; give what cosign wrote as cosign.pub"
            ) from None

    @classmethod
    def parse(cls, name: str, pem: str) -> "PublicKey":
        """Parse the text of a PEM file. Raises ValueError."""
        return cls(name, pem.strip())

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Tell whether the private key signed exactly these bytes, in a way that cosign signs."""
        from gateway.kits.key_schemes import verifies

        return verifies(self.pem, signature, data)
