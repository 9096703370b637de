"""Reads a NoCloud seed with cloud-init's own code and does what its vendor-data says.

usage: nocloud.py DIRECTORY SEED-URL; prints what was understood as JSON.
"""
import collections, json, logging, subprocess, sys

from cloudinit import helpers, url_helper, user_data, util
from cloudinit.config import cc_phone_home
from cloudinit.sources import DataSourceNoCloud

directory, seed = sys.argv[1:]
paths = helpers.Paths({"cloud_dir": directory, "run_dir": directory})


class DataSource(DataSourceNoCloud.DataSourceNoCloudNet):
    def _get_devices(self, label):  # leaves this machine's disks alone
        return []


ds = DataSource({"datasource": {"NoCloud": {"seedfrom": seed}}}, None, paths)
ds.ds_cfg = {"seedfrom": seed}
assert ds._get_data(), "the datasource found nothing"

facts = {
    "instance_id": ds.get_instance_id(),
    "hostname": ds.get_hostname().hostname,
    "fqdn": ds.get_hostname(fqdn=True).hostname,
    "keys": ds.get_public_ssh_keys(),
    "user_data": util.decode_binary(ds.userdata_raw),
    "vendor": [],
}

# An absent network configuration has to be one that cloud-init passes over.
assert util.load_yaml(url_helper.read_file_or_url(seed + "network-config").contents) is None


class Cloud:
    def __init__(self):
        self.paths = paths

    def get_instance_id(self):
        return ds.get_instance_id()

    def get_hostname(self, fqdn=False):
        return ds.get_hostname(fqdn=fqdn)


config = {}
for part in user_data.UserDataProcessor(paths).process(ds.vendordata_raw).walk():
    if part.is_multipart():
        continue
    kind, payload = part.get_content_type(), part.get_payload(decode=True)
    facts["vendor"].append(kind)
    if kind == "text/cloud-config":
        with open(directory + "/vendor.cfg", "wb") as f:
            f.write(payload)
        subprocess.run(["cloud-init", "schema", "--config-file", f.name], check=True, stdout=sys.stderr)
        config.update(util.load_yaml(payload))
    else:
        with open(directory + "/vendor-script", "wb") as f:
            f.write(payload)
        subprocess.run([sys.executable, f.name], check=True, stdout=sys.stderr)
if "phone_home" in config:
    cc_phone_home.handle("phone-home", config, Cloud(), logging.getLogger(), [])
print(json.dumps(facts))
