"""Who submits a mail: the one value that the rest of the policy asks about.

An identity comes from a login (Secret), a ServiceAccount token, or an explicitly trusted network. Without any of them
nobody may send: being on a private or loopback address earns nothing (never an open relay).
"""

from typing import Literal

from msgspec import Struct

IdentityKind = Literal["Secret", "ServiceAccount", "Network"]


class Identity(Struct, frozen=True):
    """An authenticated or trusted party. Hashable: the index keeps the rights of each by it.

    `name` is the login (lower case), `namespace/serviceaccount`, or the peer's address for a network; `namespace` is
    that of the Secret or ServiceAccount, "" for a network; `account` is the Secret's or ServiceAccount's own name.
    """

    kind: IdentityKind
    name: str
    namespace: str = ""
    account: str = ""

    @property
    def authenticated(self) -> bool:
        """True for what AUTH proved: `with ESMTPA` (RFC 3848). A network proves nothing."""
        return self.kind != "Network"

    @property
    def label(self) -> str:
        """How replies name it."""
        match self.kind:
            case "Secret":
                return self.name
            case "ServiceAccount":
                return f"ServiceAccount {self.name}"
            case "Network":
                return f"The peer {self.name}"


def service_account(namespace: str, name: str) -> Identity:
    """The identity of a ServiceAccount."""
    return Identity("ServiceAccount", f"{namespace}/{name}", namespace, name)
