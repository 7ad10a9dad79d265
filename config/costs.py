#!/usr/bin/env python3
"""What the stack costs an hour, idle and busy, from list prices and the calls that an image takes. Prints the table of README.md.

    config/costs.py [--images N] [--kilobytes N] [--rate N] [--web N] [--spot]

Prices are those of us-east-1 without free tiers, volume discounts and data that leaves AWS; change them here for another region."""

import argparse
import math

# As published for us-east-1; look them up again before you rely on them.
PRICES_OF = "2026-11-24"
HOURS = 730  # in a month
HOUR = {
    "t3.small": 0.0208,
    "c6i.large": 0.085,
    "c6i.large, spot": 0.033,
    "load balancer": 0.0225,
    "public address": 0.005,
    "GB of gp3": 0.08 / HOURS,
    "alarm": 0.10 / HOURS,
    "dashboard": 3.00 / HOURS,
}
CALL = {
    "S3 write": 0.005 / 1000,
    "S3 read": 0.0004 / 1000,
    "SQS": 0.40 / 1e6,
    "DynamoDB write": 0.625 / 1e6,
    "DynamoDB read": 0.125 / 1e6,
}
CAPACITY_UNIT = 0.008  # of the load balancer: 25 new connections a second, or 1 GB an hour
LOG_GB = 0.50
MONTH = {"GB in S3": 0.023, "tag": 0.0065 / 10_000, "GB in DynamoDB": 0.25, "GB of its recovery": 0.20}

# An image: the object, its tags and its output are written, it is looked for and read; its message is sent alone, and comes, stays and
# goes in batches; its row is written to the table and to the index of labels.
IMAGE = {"S3 write": 3, "S3 read": 2, "SQS": 1.35, "DynamoDB write": 2, "DynamoDB read": 0}
# Every hour: a worker polls and beats every ten seconds or oftener, the scaler reads every half minute, the page is looked at.
WORKER = {"SQS": 2 * 180, "DynamoDB write": 360}
# Five of the stack, and two of target tracking.
ALARMS = 7
# Kept: the object with its tags, the output, the row, which is in the table and in the index; recovery is of the table alone.
TAGS, OUTPUT_KB, ROW_KB = 5, 0.6, 0.7
IDLE = {"SQS": 120 * 2 + 3600 / 20, "DynamoDB read": 120 * 4, "DynamoDB write": 12}


def calls(of, times=1):
    return sum(CALL[name] * count for name, count in of.items()) * times


def hour(images, kilobytes, rate, uploads, spot):
    """The parts of an hour's bill with so many images."""
    seconds = images / rate
    # A worker that comes waits for work now and then, so the fleet is bought at 80 % of what it could do; booting costs a minute.
    workers = math.ceil(seconds / 3600 / 0.8) if images > 3600 * rate * 0.8 else (1 if images else 0)
    worker_hours = max(seconds / 0.8, 0) / 3600 + (workers / 60 if images else 0)
    web = max(1, math.ceil(images / 3600 / uploads))
    kind = "c6i.large, spot" if spot else "c6i.large"
    gigabytes = images * kilobytes / 1e6
    return workers, {
        "load balancer": HOUR["load balancer"] + 2 * HOUR["public address"] + CAPACITY_UNIT * max(gigabytes, 0.05),
        "web tier": web * (HOUR["t3.small"] + HOUR["public address"] + 20 * HOUR["GB of gp3"]),
        "workers": worker_hours * (HOUR[kind] + HOUR["public address"] + 8 * HOUR["GB of gp3"]),
        "S3, SQS, DynamoDB": calls(IMAGE, images) + calls(WORKER, worker_hours) + calls(IDLE),
        "alarms, dashboard, logs": ALARMS * HOUR["alarm"] + HOUR["dashboard"] + LOG_GB * images * 1e-7,
    }


def month(images, kilobytes):
    """What it costs a month to keep so many images and their results."""
    in_s3 = (kilobytes + OUTPUT_KB) / 1e6 * MONTH["GB in S3"] + TAGS * MONTH["tag"]
    return images * (in_s3 + ROW_KB / 1e6 * (2 * MONTH["GB in DynamoDB"] + MONTH["GB of its recovery"]))


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--images", type=int, help="images in the busy hour; default: a table of some")
    arguments.add_argument("--kilobytes", type=float, default=200, help="size of an image; default 200")
    arguments.add_argument("--rate", type=float, default=80, help="images a second of one worker; default 80")
    arguments.add_argument("--uploads", type=float, default=100, help="uploads a second of one web instance; default 100")
    arguments.add_argument("--spot", action="store_true", help="workers on spot capacity")
    given = arguments.parse_args()
    columns = [given.images] if given.images is not None else [0, 10_000, 100_000, 1_000_000]
    found = [hour(images, given.kilobytes, given.rate, given.uploads, given.spot) for images in columns]
    print(f"| US dollars an hour, list prices of {PRICES_OF} | " + " | ".join(f"{n:,} images" if n else "idle" for n in columns) + " |")
    print("|---|" + "--:|" * len(columns))
    for part in found[0][1]:
        print(f"| {part} | " + " | ".join(f"{parts[part]:.3f}" for _, parts in found) + " |")
    print("| **together** | " + " | ".join(f"**{sum(parts.values()):.2f}**" for _, parts in found) + " |")
    print("| workers at work | " + " | ".join(str(workers) for workers, _ in found) + " |")
    print("| and a month of keeping these images | " + " | ".join(f"{month(n, given.kilobytes):.2f}" for n in columns) + " |")


if __name__ == "__main__":
    main()
