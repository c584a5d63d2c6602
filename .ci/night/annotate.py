"""Show the failures of a junit.xml on the page of the job: at most ten, which is what GitHub shows of a step."""

import sys
from xml.etree import ElementTree


def escaped(text: str, more: str = "") -> str:
    """Text for a command of GitHub's log; a property may hold neither colon nor comma."""
    return "".join(f"%{ord(character):02X}" if character in f"%\r\n{more}" else character for character in text)


failures = [case for case in ElementTree.parse(sys.argv[1]).iter("testcase") if case.find("failure") is not None]
for case in failures[:10]:
    message = case.find("failure").get("message") or "fails"
    print(f"::error title={escaped(case.get('name', ''), ':,')}::{escaped(message)}")
if len(failures) > 10:
    print(f"::notice::{len(failures) - 10} more failures: the summary and report.md have all")
