"""The Python client of any IVOA Execution Broker 1.0, and of what this broker adds: submit, compare, accept, follow.

    from broker.client import Broker

    offers = await Broker().submit("fit.py", data=[url], cores=4, memory=16)
    session = await offers.best.accept()
    await session.finished()
    path = await session.results["fluxes.fits"].fetch()

This package imports the domain, errors and aiohttp; nothing of the server. Its modules never import from here.
"""

from broker.client.batch import Batch
from broker.client.broker import Broker
from broker.client.errors import Misanswered, NoBroker, Undecided, Unreachable
from broker.client.files import File
from broker.client.offers import Offer, Offers
from broker.client.sessions import Line, Logs, Session

__all__ = [
    "Batch",
    "Broker",
    "File",
    "Line",
    "Logs",
    "Misanswered",
    "NoBroker",
    "Offer",
    "Offers",
    "Session",
    "Undecided",
    "Unreachable",
]
