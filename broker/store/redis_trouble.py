"""What each error of a Redis means for us: repeat it, give up, or mend the settings. Imports redis-py and errors."""

from __future__ import annotations

from redis.exceptions import AuthenticationError, ConnectionError, RedisError, TimeoutError

from broker.errors import SettingsError, Unavailable

# What the server answers first, when it did not act; these pass by themselves.
PASSING = {
    "LOADING": "the store's server is still reading its data",
    "READONLY": "the store's server is a replica now, and its new master is not found yet",
    "MASTERDOWN": "the store's server is a replica that has lost its master",
    "CLUSTERDOWN": "a part of the store's Cluster has no server",
    "TRYAGAIN": "the store's Cluster is moving data",
    "MOVED": "the store's Cluster is changing who holds what",
    "ASK": "the store's Cluster is moving data",
    "BUSY": "the store's server is busy with a long script",
    "UNKILLABLE": "the store's server is busy with a long script",
    "NOREPLICAS": "the store's server has too few replicas to take writes",
    "NOSCRIPT": "the store's server forgets its scripts",
}
# These pass when somebody acts.
LASTING = {
    "OOM": "the store's server has no memory left",
    "MISCONF": "the store's server cannot write to its disk",
}
REFUSED = {
    "NOAUTH": "the store's server wants a password",
    "WRONGPASS": "the store's server does not accept the user and password",
    "NOPERM": "the store's user lacks rights",
}
SENTENCES = PASSING | LASTING | REFUSED


def code(error: Exception) -> str:
    """The first word of the server's answer; empty where it gave none."""
    given = getattr(error, "status_code", None)
    if given and given != "ERR":
        return str(given)
    word = str(error).partition(" ")[0]
    return word if word in SENTENCES else ""


def passing(error: Exception) -> bool:
    """Whether repeating may help: the connection failed, or the server says that this will pass."""
    if isinstance(error, AuthenticationError):
        return False
    return code(error) in PASSING or isinstance(error, ConnectionError | TimeoutError | OSError)


def unavailable(error: Exception) -> Exception:
    """Unavailable for what the server or the network did, in words that any caller may hear; a fault of ours stays
    what it is."""
    word = code(error)
    if isinstance(error, AuthenticationError):
        word = word or "WRONGPASS"
    if word in SENTENCES:
        return Unavailable(f"{SENTENCES[word]}.", retry_after=2.0 if word in PASSING else 30.0)
    if isinstance(error, ConnectionError | TimeoutError | OSError):
        return Unavailable("the store's server cannot be reached.", retry_after=2.0)
    return error


def told(error: BaseException | None) -> str:
    """The trouble in the words of whoever found it, addresses included: for the operator."""
    return str(error or "").strip().rstrip(".") or "no answer in time"


def refused(error: BaseException | None) -> SettingsError | None:
    """What is to be mended in the settings, where the server turned us away."""
    if not isinstance(error, RedisError):
        return None
    word = code(error) or ("WRONGPASS" if isinstance(error, AuthenticationError) else "")
    if word not in REFUSED:
        return None
    return SettingsError(f"{REFUSED[word]}.", key="store", remedy="Name them in the address or in store_password_file.")
