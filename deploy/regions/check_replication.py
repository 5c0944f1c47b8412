"""Gives replication.json to an S3 (moto, inside this process) and reads it back: a rule that it does not take fails.

Run by `make regions` with the Python of .setup/s3.
"""

import json
import pathlib

import boto3
from botocore.exceptions import ClientError
from moto import mock_aws

rules = json.loads((pathlib.Path(__file__).parent / "replication.json").read_text())
target = rules["Rules"][0]["Destination"]["Bucket"].removeprefix("arn:aws:s3:::")

with mock_aws():
    access = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    s3 = boto3.client("s3", region_name="us-east-1", **access)
    for bucket in ["tallyhouse-backups-active", target]:
        s3.create_bucket(Bucket=bucket)
    put = {"Bucket": "tallyhouse-backups-active", "ReplicationConfiguration": rules}
    try:
        s3.put_bucket_replication(**put)
    except ClientError:
        pass
    else:
        raise SystemExit("a bucket without versions took rules")
    for bucket in ["tallyhouse-backups-active", target]:
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    s3.put_bucket_replication(**put)
    taken = s3.get_bucket_replication(Bucket=put["Bucket"])["ReplicationConfiguration"]

[rule] = taken["Rules"]
[wanted] = rules["Rules"]
assert taken["Role"] == rules["Role"]
# moto forgets the filter and what becomes of deletions; botocore has looked at their shape.
for name in ["ID", "Status", "Priority", "Destination"]:
    assert rule.get(name) == wanted[name], (name, rule.get(name), wanted[name])
