"""Pictures of the page, from a real run: `python tests/bench/page_pictures.py --data DIR --out DIR`.

Runs the demo's job (four ranks of gloo that are broken in three ways) against a real service, beside a few runs whose ranks speak
the protocol without a job behind them, and photographs overview, run, finding and rank at 1280 px, in the dark, and at 390 px.
A folder that has the runs already is used as it is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).parents[1]))

from stallwatch.detector.demo.acts import job_arguments
from stallwatch.v1 import telemetry_pb2 as pb
from support.chromium import Browser, chromium
from support.job import Job
from support.plateaus import flat_steps
from support.rank import Rank, hello, steps
from support.service import Service
from support.waiting import wait_until

DEMO = "gpt-small/broken-in-three-ways"
LOOKS: dict[str, dict[str, Any]] = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "narrow": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "has_touch": True,
        "color_scheme": "dark",
    },
}


def make_runs(service: Service, folder: Path) -> None:
    """The demo's job, and three runs of other sorts."""
    healthy = Rank(service.grpc_address, hello("vision/resnet50-a", group="vision/resnet50", model="ResNet"))
    healthy.send(steps(0, 1200))
    flat = Rank(service.grpc_address, hello("vision/resnet50-b", group="vision/resnet50", model="ResNet"))
    event = pb.Event(step=800, kind="augmentation", text="mixup 0.2 switched on")
    for number, block in enumerate(flat_steps(2000, floor=0.9)):
        flat.send(block, events=[event] if number == 8 else [])
    for rank in (healthy, flat):
        rank.wait_durable()
    with Job(
        folder, *job_arguments(), ranks=4, run="demo", endpoint=service.grpc_address, STALLWATCH_RUN=DEMO
    ) as job:
        job.wait(400)
    wait_until("the end of the run", lambda: service.get(address(DEMO))["state"] == "finished")


def address(run: str) -> str:
    """The run in the API."""
    return f"/api/v1/runs/{quote(run, safe='')}"


def photograph(service: Service, browser: Browser, folder: Path) -> None:
    """Every page in every look."""
    run = "/runs/" + quote(DEMO, safe="")
    found = service.get(address(DEMO) + "/findings?status=all")["findings"]
    addresses = {"overview": "/", "run": run, "rank": f"{run}/ranks/1", "runbook": "/runbooks/lr_too_low"}
    addresses |= {each["kind"]: f"{run}/findings/{quote(each['id'], safe='')}" for each in found}
    for look, settings in LOOKS.items():
        for name, path in addresses.items():
            with browser.tab(service.url, **settings) as tab:
                tab.visit(service.url + path)
                if tab.page.query_selector("#charts"):
                    tab.charted()
                if tab.page.query_selector("#heat-canvas"):
                    tab.page.wait_for_function("() => document.querySelector('#heat').dataset.loaded > 0")
                tab.page.wait_for_load_state("networkidle")
                tab.page.screenshot(path=folder / f"{name}-{look}.png", full_page=True)
                wide = tab.page.evaluate("document.documentElement.scrollWidth - innerWidth")
                print(f"{name} {look}: {'too wide by ' + str(wide) if wide > 0 else 'fits'} {tab.complaints}")


def keep(folder: Path, docs: Path) -> None:
    """The pictures of docs/page.md: cut to what fits a page, and few colours."""
    from PIL import Image

    for name, source, tall in (
        ("overview", "overview-light", 700),
        ("run", "run-light", 1700),
        ("finding", "plateau-dark", 1500),
        ("narrow", "run-narrow", 1900),
    ):
        picture = Image.open(folder / f"{source}.png").convert("RGB")
        picture = picture.crop((0, 0, picture.width, min(tall, picture.height)))
        picture.quantize(256, method=Image.Quantize.MAXCOVERAGE).save(
            docs / f"page-{name}.png", optimize=True
        )


def main() -> int:
    """Make what is missing, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--docs", type=Path, help="folder that gets those of docs/page.md")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with Service(options.data) as service:
        if service.get(address(DEMO)) is None:
            make_runs(service, options.data)
        with chromium() as browser:
            photograph(service, browser, options.out)
    if options.docs:
        keep(options.out, options.docs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
