"""Crawls an EC2 style metadata service with cloud-init's own code.

usage: ec2.py DIRECTORY BASE-URL; prints what was understood as JSON.
"""
import json, sys

from cloudinit import helpers, util
from cloudinit.sources import DataSourceEc2
from cloudinit.sources.helpers import ec2

directory, base = sys.argv[1:]
paths = helpers.Paths({"cloud_dir": directory, "run_dir": directory})
ds = DataSourceEc2.DataSourceEc2({"datasource": {"Ec2": {"metadata_urls": [base], "timeout": 5, "max_wait": 5}}}, None, paths)
type(ds).cloud_name = DataSourceEc2.CloudNames.UNKNOWN  # identify_platform would look at this machine
assert ds.wait_for_metadata_service(), "no metadata service"
version = ds.get_metadata_api_version()
ds.metadata = ec2.get_instance_metadata(version, ds.metadata_address, retries=0)
print(json.dumps({
    "instance_id": ds.get_instance_id(),
    "hostname": ds.get_hostname().hostname,
    "fqdn": ds.get_hostname(fqdn=True).hostname,
    "keys": ds.get_public_ssh_keys(),
    "user_data": util.decode_binary(ec2.get_instance_userdata(version, ds.metadata_address)),
    "version": version,
}))
