# Drives a BMC by sushy: sushy.py URL USER PASSWORD IMAGE
import sys
import warnings

warnings.filterwarnings("ignore")
import sushy  # noqa: E402

url, user, password, image = sys.argv[1:]
root = sushy.Sushy(url + "/redfish/v1/", auth=sushy.auth.SessionAuth(user, password), verify=False)
system = root.get_system("/redfish/v1/Systems/1")
assert system.power_state == sushy.PowerState.OFF, system.power_state
assert system.serial_number == "SN-4711", system.serial_number
assert system.processors.summary.count == 1
assert system.memory_summary.size_gib == 0, system.memory_summary.size_gib  # sushy makes a whole number of 0.25
macs = [nic.mac_address for nic in system.ethernet_interfaces.get_members()]
assert macs == ["52:54:00:77:00:01", "52:54:00:77:01:01"], macs
sizes = sorted(drive.capacity_bytes for storage in system.storage.get_members() for drive in storage.drives)
assert sizes == [8 << 20, 16 << 20], sizes

system.bios.set_attribute("BootMenu", "Disabled")
assert "ProcCores" in system.bios.attributes
system.bios.set_attribute("ProcCores", "1")
assert system.bios.pending_attributes == {"ProcCores": "1"} or system.bios.attributes["ProcCores"] == "1"

manager = root.get_manager("/redfish/v1/Managers/1")
drives = {d.identity: d for d in manager.virtual_media.get_members()}
drive = drives["Cd"]
drive.insert_media(image)
drive.refresh()
assert drive.inserted and drive.image == image
system.set_system_boot_options(sushy.BOOT_SOURCE_TARGET_CD, enabled=sushy.BOOT_SOURCE_ENABLED_ONCE)
system.refresh()
assert system.boot.target == sushy.BOOT_SOURCE_TARGET_CD
system.reset_system(sushy.RESET_ON)
system.refresh()
assert system.power_state == sushy.PowerState.ON
assert system.boot.enabled == sushy.BOOT_SOURCE_ENABLED_DISABLED, system.boot.enabled

update = root.get_update_service()
versions = {f.identity: f.version for f in update.firmware_inventory.get_members()}
assert versions["BIOS"] == "1.0.0", versions
assert root.get_task_service().tasks.get_members() == []
print("done")
