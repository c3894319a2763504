"""A report as text for a person, as a JSON document, and as JUnit XML for a build server. Imports the findings; pure.

What a service wrote is shown without power over a terminal (client/words).
"""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from broker.checker.findings import Finding, Level, Report
from broker.client.words import count, cut, plain, wrap

SCHEMA = "check-1.0"
_NAME = 14  # columns of a check's name
_INDENT = " " * (6 + _NAME + 1)
_MOST_LINES = 8  # of one text
_LOUD = (Level.WARN, Level.FAIL)


def verdict(report: Report) -> str:
    """One line: what came of it all."""
    if report.signed_out:
        return "It tells nothing before one signs in."
    if not report.conforms:
        return "It does not conform to version 1.0."
    doubts = count(report.count(Level.WARN), "doubt")
    return "It conforms to version 1.0." if doubts[0] == "0" else f"It conforms to version 1.0, with {doubts}."


def text(report: Report, width: int) -> str:
    """Every check on a line or several; those that ask for work with the place where it is written."""
    lines = [cut(plain(report.url), width)]
    lines.append(f"speaks {report.dialect}, dialect {report.speaks}" if report.speaks else "speaks no known dialect")
    if report.asked:
        lines.append(f"asked  for offers to {report.asked}")
    lines.append("")
    for finding in report.findings:
        lines += [] if finding.level is Level.SKIP else _lines(finding, width)
    lines += [*_skipped(report, width), "", _counts(report), verdict(report)]
    if report.left:
        lines.append(f"Left open, to be rejected by hand: {plain(', '.join(report.left))}")
    return "\n".join(lines)


def _lines(finding: Finding, width: int) -> list[str]:
    said = [plain(one) for one in finding.said]
    if finding.level in _LOUD:
        shown = [*_block(finding.title, width), *_inner(said, width), *_inner([f"see {finding.law}"], width)]
    else:
        shown = _block(finding.title + (f": {'; '.join(said)}" if said else ""), width)
    return _under(f"{finding.level:<6}{finding.check}", shown)


def _skipped(report: Report, width: int) -> list[str]:
    """What was not looked at, by the reason: there may be many."""
    reasons: dict[str, list[str]] = {}
    for finding in report.findings:
        if finding.level is Level.SKIP:
            reasons.setdefault("; ".join(finding.said), []).append(finding.check)
    lines = []
    for reason, checks in reasons.items():
        shown = [*_block(plain(reason), width), *_inner([", ".join(checks)], width)]
        lines += _under(f"skip  {count(len(checks), 'check')}", shown)
    return lines


def _block(text: str, width: int) -> list[str]:
    return wrap(text, max(20, width - len(_INDENT)), most=_MOST_LINES)


def _inner(texts: list[str], width: int) -> list[str]:
    return [f"  {line}" for text in texts for line in _block(text, width - 2)]


def _under(head: str, lines: list[str]) -> list[str]:
    return [f"{head:<{len(_INDENT)}}{lines[0]}", *(_INDENT + line for line in lines[1:])]


def _counts(report: Report) -> str:
    said = [f"{report.count(level)} {level}" for level in Level if report.count(level)]
    return f"{len(report.findings)} checks: {', '.join(said)}."


def document(report: Report) -> dict[str, Any]:
    """The report under `check-1.0`: names and levels are as they stand in docs/check.md."""
    return {
        "schema": SCHEMA,
        "url": report.url,
        "dialect": report.speaks or None,
        "dialect_name": report.dialect or None,
        "asked": report.asked or None,
        "conforms": report.conforms,
        "signed_out": report.signed_out,
        "verdict": verdict(report),
        "left": list(report.left),
        "findings": [
            {
                "check": finding.check,
                "level": str(finding.level),
                "title": finding.title,
                "said": list(finding.said),
                "law": finding.law,
            }
            for finding in report.findings
        ],
    }


def junit(report: Report) -> bytes:
    """One test case a check. A doubt passes, with its words as output."""
    cases = [_case(finding) for finding in report.findings]
    suite = ElementTree.Element(
        "testsuite",
        name=plain(report.url),
        tests=str(len(cases)),
        failures=str(report.count(Level.FAIL)),
        errors="0",
        skipped=str(report.count(Level.SKIP)),
    )
    suite.extend(cases)
    suites = ElementTree.Element("testsuites", name="broker check")
    suites.append(suite)
    ElementTree.indent(suites)
    written: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _case(finding: Finding) -> ElementTree.Element:
    group = finding.check.partition(".")[0]
    case = ElementTree.Element("testcase", classname=f"broker.check.{group}", name=finding.check)
    said = "\n".join(plain(one) for one in finding.said)
    if finding.level is Level.FAIL:
        failure = ElementTree.SubElement(case, "failure", message=plain("; ".join(finding.said)), type=finding.law)
        failure.text = f"{finding.title}\n{said}\nsee {finding.law}"
    elif finding.level is Level.SKIP:
        ElementTree.SubElement(case, "skipped", message=plain("; ".join(finding.said)))
    elif said:
        ElementTree.SubElement(case, "system-out").text = f"{finding.level}: {said}"
    return case
