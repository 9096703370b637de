package action

import (
	"slices"
	"time"
)

// Where says how an action that works on a file system finds it.
var where = []Input{
	{Name: "device", Type: String, Doc: "Block device that holds the file system, such as /dev/vda1. Give this, or `disk`."},
	{Name: "disk", Type: String, Doc: "Disk that holds it, such as `${{ steps.disk.outputs.path }}`."},
	{Name: "partition", Type: IntOrString, Default: "root", Doc: "With `disk`: number, label, or `root`: the one that the image names, else the largest with a known file system."},
}

func with(first []Input, more ...Input) []Input { return append(slices.Clone(first), more...) }

// eraseMethods are those of disk.erase; agent/disk/erase says what each is.
var eraseMethods = []string{
	"nvme-sanitize-crypto", "nvme-sanitize-block", "nvme-sanitize-overwrite", "nvme-format-crypto", "nvme-format-user",
	"ata-sanitize-crypto", "ata-sanitize-block", "ata-sanitize-overwrite", "ata-erase-enhanced", "ata-erase",
	"scsi-sanitize-crypto", "scsi-sanitize-block", "scsi-sanitize-overwrite", "secure-discard", "discard", "overwrite",
}

// built is made once and only read.
var built = slices.Concat(disks(), finishing(), layouts(), files(), boot(), tests(), rescue(), general())

func table() []Action { return built }

func disks() []Action {
	return []Action{
		{
			Name: "disk.select",
			Doc:  "Picks the disk to work on: of those that the hint allows and that are writable and large enough, the smallest; of equals the first by PCI address and name.",
			Inputs: []Input{
				{Name: "hint", Type: DiskHint, Default: "every fixed disk", Doc: "Expression over `disk`, such as `disk.type == \"nvme\" && disk.size > 100*GB`. Removable disks are passed over unless it mentions `disk.removable`."},
				{Name: "min_size", Type: Size, Default: "0", Doc: "Smallest size that will do."},
			},
			Outputs: []Output{
				{Name: "path", Type: String, Doc: "Device path, such as /dev/nvme0n1."},
				{Name: "name", Type: String, Doc: "Kernel name, such as nvme0n1."},
				{Name: "serial", Type: String, Doc: "The disk's serial number; empty when it has none."},
				{Name: "size", Type: Int, Doc: "Size in bytes."},
				{Name: "wwn", Type: String, Doc: "World wide name; empty when it has none."},
			},
			Errors:         []string{"No disk fits: every disk is listed with the reason it was passed over."},
			Idempotent:     true,
			DefaultTimeout: time.Minute,
		},
		{
			Name: "disk.erase",
			Doc:  "Makes disks forget what they held, each by the strongest means that it has, reads back, and says for each disk how it went. For a machine that is given to somebody else. What holds a disk (file systems, swap, RAID, LVM, encryption) is stopped first. Methods and what each guarantees are on the page [erasure](erasure.md).",
			Inputs: []Input{
				{Name: "disk", Type: String, Doc: "One disk to erase."},
				{Name: "disks", Type: Strings, Default: "every disk that the agent sees at that moment, but removable ones", Doc: "Disks to erase, side by side. One fails the step, the others are erased all the same."},
				{Name: "method", Type: String, Values: append([]string{"auto"}, eraseMethods...), Default: "auto", Doc: "`auto` tries what each disk offers, the strongest first; another is the only one that is tried."},
				{Name: "methods", Type: Strings, Doc: "Several methods, tried in that order."},
				{Name: "verify", Type: String, Values: []string{"sample", "full", "none"}, Default: "sample", Doc: "`sample` reads both ends and places at random, `full` every block. After a discard every block is read in any case."},
				{Name: "samples", Type: Int, Default: "1024", Doc: "Number of places that `sample` reads besides the ends."},
				{Name: "seed", Type: String, Default: "random", Doc: "16 hexadecimal digits that the places are made from; on record in the results."},
				{Name: "pattern", Type: String, Values: []string{"zeros", "ones", "random"}, Default: "zeros", Doc: "What `overwrite` writes; `random` for disks that compress."},
				{Name: "hidden_areas", Type: String, Values: []string{"fail", "report"}, Default: "fail", Doc: "What to do about sectors hidden by HPA, DCO or Accessible Max Address, and namespaces that aren't attached, when a method doesn't reach them: pass on to the next method, or only report them."},
			},
			Outputs: []Output{
				{Name: "results", Type: List, Doc: "A map for each disk: path, name, model, serial, wwn, firmware, bus, size_bytes, method, level (clear or purge), then (method that came after, for verification), resumed, tried (list of method and error), not_offered, hidden, start_time, duration_seconds, log_page, verification (kind, samples, seed, bytes_read, result), ok, error. A failed step has them as well."},
				{Name: "disks", Type: Int, Doc: "Number of disks."},
				{Name: "bytes", Type: Int, Doc: "Bytes of the disks that were erased."},
				{Name: "level", Type: String, Doc: "The lowest level of all disks; empty when one of them is not erased."},
			},
			Errors:         []string{"A disk is in use by what can't be stopped.", "No method worked on a disk: each is named with its reason.", "A disk still holds what it held before."},
			Idempotent:     true,
			DefaultTimeout: 48 * time.Hour,
		},
		{
			Name: "disk.wipe",
			Doc:  "Clears partition tables and signatures, so that a disk can be used anew and nothing on it is taken for a file system. It is quick, and no erasure: content may stay readable. Before a machine changes hands use disk.erase.",
			Inputs: []Input{
				{Name: "disk", Type: String, Doc: "Disk to wipe. Give this, or `disks`."},
				{Name: "disks", Type: Strings, Doc: "Disks to wipe, side by side."},
				{Name: "method", Type: String, Values: []string{"auto", "signatures", "discard", "zero"}, Default: "auto", Doc: "`signatures` clears partition tables and file system signatures; `discard` tells the disk to forget every block and checks that it did, `zero` writes zeros to every block; `auto` discards where the disk can, and clears signatures."},
			},
			OneOf:          [][]string{{"disk", "disks"}},
			Outputs:        []Output{{Name: "method", Type: String, Doc: "The method that was used."}, {Name: "bytes", Type: Int, Doc: "Bytes that were cleared."}},
			Errors:         []string{"The disk is in use, read only, or refuses a block; the block and the system's error are named."},
			Idempotent:     true,
			DefaultTimeout: 12 * time.Hour,
		},
		{
			Name: "disk.partition",
			Doc:  "Writes a new partition table. What the disk held before is lost.",
			Inputs: []Input{
				{Name: "disk", Type: String, Required: true, Doc: "Disk to partition."},
				{Name: "table", Type: String, Values: []string{"gpt", "mbr"}, Default: "gpt", Doc: "Kind of partition table."},
				{Name: "partitions", Type: List, Required: true, Doc: "The partitions, in order.", Fields: []Input{
					{Name: "name", Type: String, Doc: "Partition name (GPT)."},
					{Name: "size", Type: Size, Default: "the rest of the disk", Doc: "Size; only the last one may leave it out."},
					{Name: "type", Type: String, Default: "linux", Doc: "esp, bios-boot, linux, swap, lvm, raid, or a GPT type UUID or MBR type in hexadecimal."},
					{Name: "label", Type: String, Doc: "The same as name."},
					{Name: "uuid", Type: String, Default: "random", Doc: "Partition UUID (GPT)."},
					{Name: "bootable", Type: Bool, Doc: "Active (MBR) or legacy-BIOS-bootable (GPT)."},
				}},
			},
			Outputs:        []Output{{Name: "partitions", Type: Strings, Doc: "Device paths of the partitions, in order."}},
			Errors:         []string{"The partitions don't fit: sizes wanted and free are named.", "The kernel still uses the old table."},
			Idempotent:     true,
			DefaultTimeout: 5 * time.Minute,
		},
		{
			Name: "disk.format",
			Doc:  "Makes a file system or swap space.",
			Inputs: []Input{
				{Name: "device", Type: String, Required: true, Doc: "Block device, such as `${{ steps.parts.outputs.partitions[0] }}`."},
				{Name: "type", Type: String, Required: true, Values: []string{"ext4", "xfs", "vfat", "swap"}, Doc: "Kind of file system."},
				{Name: "label", Type: String, Doc: "File system label."},
				{Name: "options", Type: Strings, Doc: "Further arguments for mkfs."},
			},
			Outputs:        []Output{{Name: "uuid", Type: String, Doc: "UUID of the file system."}},
			Errors:         []string{"The agent system has no mkfs for this type.", "mkfs failed: its exit code and last lines are on the step."},
			Idempotent:     true,
			DefaultTimeout: 30 * time.Minute,
		},
		{
			Name: "image.write",
			Doc:  "Writes an operating system image to a disk. Network, decompression, hashing and writing overlap; zero blocks are skipped; a cut transfer resumes; every byte that crosses the network is checked against the digest before the disk can boot.",
			Inputs: []Input{
				{Name: "image", Type: String, Doc: "Name of an Image. Give this, or `url`."},
				{Name: "url", Type: String, Doc: "http or https URL of the image."},
				{Name: "digest", Type: String, Doc: "`sha256:` and 64 hexadecimal digits of the file as it crosses the network. Without one, with `url`, the step warns that nothing vouches for the image."},
				{Name: "size_bytes", Type: Int, Doc: "Length of the file as it crosses the network; a file of another length fails."},
				{Name: "format", Type: String, Values: []string{"raw", "qcow2"}, Default: "told from the first bytes", Doc: "Format of the disk image."},
				{Name: "compression", Type: String, Values: []string{"none", "gzip", "bzip2", "xz", "zstd"}, Default: "told from the first bytes", Doc: "Compression of the file."},
				{Name: "disk", Type: String, Required: true, Doc: "Disk to write to."},
				{Name: "grow", Type: Bool, Default: "false", Doc: "Let the last partition take the rest of the disk; the file system in it is grown by the installed system."},
				{Name: "verify", Type: Bool, Default: "false", Doc: "Read everything back from the disk and compare before it may boot."},
				{Name: "compare", Type: String, Values: []string{"auto", "always", "never"}, Default: "auto", Doc: "Of an image that the server has in chunks, write only those that the disk hasn't got. `always` reads all of the disk that the image takes; `auto` stops reading where nothing is found to be the same; `never` writes all."},
			},
			OneOf: [][]string{{"image", "url"}},
			Outputs: []Output{
				{Name: "bytes", Type: Int, Doc: "Size of the disk image, zeros included."},
				{Name: "written", Type: Int, Doc: "Bytes that were written to the disk."},
				{Name: "skipped", Type: Int, Doc: "Bytes of zeros that were cleared instead of written."},
				{Name: "kept", Type: Int, Doc: "Bytes that the disk had already, and that were not written again."},
				{Name: "digest", Type: String, Doc: "Digest that was verified."},
				{Name: "disk", Type: String, Doc: "The disk."},
				{Name: "duration", Type: Double, Doc: "Seconds that it took."},
				{Name: "root_partition", Type: Int, Doc: "Number of the root partition, if the Image names one; else 0."},
			},
			Errors: []string{
				"The digest is another one: wanted and found are named, and the disk is left unable to boot.",
				"The file is shorter or longer than it should be.",
				"The image is larger than the disk.",
				"A write failed: offset and the disk's own error are named.",
			},
			Idempotent:     true,
			DefaultTimeout: 2 * time.Hour,
		},
	}
}

// finishing is apart from disks for its length alone.
func finishing() []Action {
	return []Action{
		{
			Name: "image.finish",
			Doc:  "Puts right what the image's own data (`spec.finish` of the Image) says, right after it was written: its last file system takes all of its partition, files with the instance's configuration go to where the system reads them, the machine id and SSH host keys of the image are removed, kernel arguments are appended to the boot loader's configuration, and the firmware is told of the system.",
			Inputs: []Input{
				{Name: "image", Type: String, Required: true, Doc: "Name of the Image."},
				{Name: "disk", Type: String, Required: true, Doc: "Disk that it was written to."},
				{Name: "kernel_arguments", Type: Strings, Doc: "Kernel arguments that are appended besides the image's."},
				{Name: "grow", Type: Bool, Default: "true", Doc: "False leaves the file systems as they are, whatever the image says."},
			},
			Outputs: []Output{
				{Name: "grown", Type: Bool, Doc: "A file system grew."},
				{Name: "files", Type: Int, Doc: "Number of files that were written."},
				{Name: "boot_files", Type: Strings, Doc: "Configurations of boot loaders that have the kernel arguments, such as `1:/boot/grub/grub.cfg`."},
				{Name: "entry", Type: String, Doc: "Name of the firmware's variable; empty where none was asked for, and on BIOS."},
			},
			Errors: []string{
				"No such partition: those that are there are listed.",
				"The file system refuses to grow, with the kernel's own reason.",
				"There are kernel arguments, but no boot loader's configuration.",
				"The instance's configuration can't be fetched.",
			},
			Idempotent:     true,
			DefaultTimeout: 15 * time.Minute,
		},
	}
}

func layouts() []Action {
	return []Action{
		{
			Name: "storage.apply",
			Doc:  "Makes the machine's disks hold what a declaration says: partitions, software RAID, LVM, LUKS2 encryption, file systems. The whole plan is checked against the real disks before any of them is touched. Disks to be kept are compared with the declaration and never written to.",
			Inputs: []Input{
				{Name: "layout", Type: Map, Required: true, Doc: "The declaration, such as `${{ instance.spec.storage }}`."},
				{Name: "phase", Type: String, Values: []string{"apply", "check", "make", "configure"}, Default: "apply", Doc: "`check` finds the disks, plans, and looks into what is kept, writing nothing; `make` makes everything and leaves it active; `configure` writes it into the installed system; `apply` is both, behind an image that is on its disk."},
				{Name: "root_disk", Type: DiskHint, Default: "the declaration's, else the smallest that no other entry takes", Doc: "Picks the disk of the operating system."},
				{Name: "keys", Type: Map, Doc: "Passphrases by the name of their secret: `${{ instance.keys }}`."},
			},
			Outputs: []Output{
				{Name: "root_disk", Type: String, Doc: "Path of the disk of the operating system."},
				{Name: "root", Type: String, Doc: "Device of the declared root file system; empty where that is the image's."},
				{Name: "disks", Type: Map, Doc: "Paths of the declared disks, by name."},
				{Name: "devices", Type: Map, Doc: "Device paths of all parts, by name."},
				{Name: "kept", Type: Strings, Doc: "Names of the disks that are to be kept."},
				{Name: "mounts", Type: List, Doc: "What the installed system mounts: device, path, type."},
				{Name: "recovery", Type: List, Doc: "Recovery keys that were made: name, and key, encrypted to the declared recipients (`age --decrypt`)."},
			},
			Errors: []string{
				"There is no disk for an entry: every disk is listed with the reason it was passed over.",
				"Something doesn't fit; the field and both sizes are named.",
				"A disk is in use: by what is named.",
				"A disk is to be kept and holds something else; what is declared and what is there are named, and nothing is touched.",
				"What is kept can't be opened: no key of the declaration or the TPM opens it.",
				"mdadm, lvm, cryptsetup or mkfs failed: its last lines are on the step.",
			},
			Idempotent:     true,
			DefaultTimeout: 2 * time.Hour,
		},
	}
}

func files() []Action {
	return []Action{
		{
			Name: "archive.extract",
			Doc:  "Unpacks a tar archive into a file system. Entries that would leave it are refused.",
			Inputs: with(where,
				Input{Name: "url", Type: String, Required: true, Doc: "http or https URL of the archive."},
				Input{Name: "digest", Type: String, Required: true, Doc: "`sha256:` and 64 hexadecimal digits of the archive."},
				Input{Name: "path", Type: String, Default: "/", Doc: "Folder to unpack into; made if it isn't there."},
				Input{Name: "format", Type: String, Values: []string{"tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"}, Default: "told from the first bytes", Doc: "Format of the archive."},
			),
			OneOf:          [][]string{{"device", "disk"}},
			Outputs:        []Output{{Name: "files", Type: Int, Doc: "Number of entries."}, {Name: "bytes", Type: Int, Doc: "Bytes of content."}},
			Errors:         []string{"The digest is another one: nothing was unpacked.", "The file system can't be mounted or is full."},
			Idempotent:     true,
			DefaultTimeout: time.Hour,
		},
		{
			Name: "file.write",
			Doc:  "Writes one file into a file system: beside its place, synced, then renamed.",
			Inputs: with(where,
				Input{Name: "path", Type: String, Required: true, Doc: "Path in that file system. Links that lead out of it are refused."},
				Input{Name: "content", Type: String, Doc: "Content of the file. Give this, or `url`."},
				Input{Name: "url", Type: String, Doc: "http or https URL of the content."},
				Input{Name: "digest", Type: String, Doc: "With `url`: `sha256:` and 64 hexadecimal digits that the content must have."},
				Input{Name: "mode", Type: String, Default: "0644", Doc: "Permissions, in octal."},
				Input{Name: "uid", Type: Int, Default: "0", Doc: "Owner."},
				Input{Name: "gid", Type: Int, Default: "0", Doc: "Group."},
				Input{Name: "dir_mode", Type: String, Default: "0755", Doc: "Permissions of folders that have to be made."},
			),
			OneOf:          [][]string{{"device", "disk"}, {"content", "url"}},
			Outputs:        []Output{{Name: "bytes", Type: Int, Doc: "Size of the file."}, {Name: "device", Type: String, Doc: "The block device that it was written to."}},
			Errors:         []string{"No such partition: those that are there are listed.", "The file system can't be mounted or is full."},
			Idempotent:     true,
			DefaultTimeout: 5 * time.Minute,
		},
		{
			Name: "chroot.exec",
			Doc:  "Runs a command of the installed system, in its root file system, with /dev, /proc, /sys and the EFI partition mounted.",
			Inputs: with(where,
				Input{Name: "command", Type: Strings, Required: true, Doc: "Program and its arguments."},
				Input{Name: "env", Type: Map, Doc: "Environment; the step's own `env` does as well."},
			),
			OneOf:          [][]string{{"device", "disk"}},
			Outputs:        []Output{{Name: "exit_code", Type: Int, Doc: "Exit code."}, {Name: "stdout", Type: String, Doc: "Last 64 KiB of what it printed."}},
			Errors:         []string{"The command's exit code isn't 0; its last lines are on the step."},
			Environment:    true,
			DefaultTimeout: 10 * time.Minute,
		},
	}
}

func boot() []Action {
	return []Action{
		{
			Name: "efi.boot-entry",
			Doc:  "Sets the firmware's boot entry for the installed system (UEFI §3.1.3). On a machine that was started by BIOS it does nothing and says so.",
			Inputs: []Input{
				{Name: "disk", Type: String, Required: true, Doc: "Disk that holds the EFI system partition."},
				{Name: "partition", Type: IntOrString, Default: "the EFI system partition", Doc: "Its number or label."},
				{Name: "label", Type: String, Default: "Bedplate", Doc: "Name of the entry in the firmware's menu. One with the same name is replaced."},
				{Name: "loader", Type: String, Default: "the installed shim or GRUB, else \\EFI\\BOOT\\BOOTX64.EFI", Doc: "Path of the loader on that partition."},
				{Name: "order", Type: String, Values: []string{"first", "last"}, Default: "last", Doc: "Place in the boot order. `last` keeps network boot first, so that the server decides at every boot."},
				{Name: "remove_others", Type: Bool, Default: "false", Doc: "Remove other entries that lead to a disk."},
			},
			Outputs:        []Output{{Name: "entry", Type: String, Doc: "Name of the variable, such as Boot0003; empty on BIOS."}},
			Errors:         []string{"The firmware refuses the variable: its error is named."},
			Idempotent:     true,
			DefaultTimeout: time.Minute,
		},
		{
			Name: "firmware.reset",
			Doc:  "Takes out of UEFI firmware what an installed system has put there: boot entries that lead to a disk's partitions and our own, drivers loaded from disks (Driver####, SysPrep####), BootNext, OsIndications, boot loaders' own variables, and requests to enrol machine owner keys (MOK). The rest of the boot order stays, with network boot first. Keys that are enrolled can't be taken away by software: they are reported. On a machine that was started by BIOS it does nothing and says so.",
			Outputs: []Output{
				{Name: "firmware", Type: String, Doc: "`uefi` or `bios`."},
				{Name: "removed", Type: Strings, Doc: "Names of the variables that were removed."},
				{Name: "order", Type: Strings, Doc: "The boot order now, such as `Boot0001 UEFI PXEv4`."},
				{Name: "mok_keys", Type: Int, Doc: "Machine owner keys that are enrolled besides the distribution's own."},
			},
			Errors:         []string{"The firmware refuses to give up a variable: its error is named."},
			Idempotent:     true,
			DefaultTimeout: time.Minute,
		},
		{
			Name: "tpm.clear",
			Doc:  "Clears the TPM: owner and endorsement hierarchies, their keys and passwords (TPM 2.0 Part 3 §24.6 TPM2_Clear). Where an unknown lockout password is in the way, the firmware is asked to do it at the next boot (TCG Physical Presence Interface 1.3, operation 5): reboot, and use tpm.clear again. On a machine without a TPM it does nothing and says so.",
			Outputs: []Output{
				{Name: "present", Type: Bool, Doc: "The machine has a TPM."},
				{Name: "version", Type: Int, Doc: "1 or 2; 0 without a TPM."},
				{Name: "method", Type: String, Doc: "`lockout`, `platform`, `ppi`, or `none`: there was nothing to do."},
				{Name: "cleared", Type: Bool, Doc: "It is cleared, and was asked to see that."},
				{Name: "pending", Type: Bool, Doc: "The firmware does it at the next boot."},
			},
			Errors:         []string{"A password is in the way, and the firmware can't be asked or wants a person to press a key.", "The TPM doesn't answer."},
			Idempotent:     true,
			DefaultTimeout: 2 * time.Minute,
		},
		{
			Name: "boot.kexec",
			Doc:  "Starts a kernel at once, without going through firmware. The workflow goes on when the machine comes back as the agent.",
			Inputs: []Input{
				{Name: "disk", Type: String, Doc: "Disk with an installed system: starts the kernel, initramfs and command line that its boot loader would by default, by GRUB's configuration or the entries of the Boot Loader Specification."},
				{Name: "kernel", Type: String, Default: "the newest in /boot, with `device`", Doc: "Path or URL of the kernel."},
				{Name: "initrd", Type: String, Doc: "Path or URL of the initramfs."},
				{Name: "cmdline", Type: String, Doc: "Kernel command line."},
				{Name: "device", Type: String, Doc: "Block device that paths are read from. Empty: kernel and initrd are URLs."},
				{Name: "next_boot", Type: String, Values: []string{"agent", "disk"}, Default: "disk", Doc: "What the started kernel is: this agent again, or the installed system."},
				{Name: "otherwise", Type: String, Values: []string{"fail", "reboot"}, Default: "fail", Doc: "`reboot` restarts the machine by way of its firmware when the kernel can't be started, or when that is known not to be safe: a driver whose devices don't survive it, firmware settings that wait for a restart, an image with `handover: reboot`."},
				{Name: "try", Type: Bool, Default: "true", Doc: "With `otherwise: reboot`: false restarts at once."},
			},
			Outputs: []Output{
				{Name: "handover", Type: String, Doc: "`kexec` or `reboot`: which it was."},
				{Name: "reason", Type: String, Doc: "Why it was a reboot."},
			},
			Errors:         []string{"Kernel or initramfs is missing.", "The kernel refuses it: not signed while Secure Boot locks it down, or no memory."},
			DefaultTimeout: 5 * time.Minute,
			Idempotent:     true,
		},
		{
			Name: "machine.reboot",
			Doc:  "Restarts the machine. With `agent` the workflow goes on when it is back.",
			Inputs: []Input{
				{Name: "boot", Type: String, Values: []string{"agent", "disk"}, Default: "agent", Doc: "What it comes back as."},
			},
			Errors:         []string{"The kernel refuses to restart.", "The machine didn't come back in time."},
			DefaultTimeout: 30 * time.Minute,
			Idempotent:     true,
		},
		{
			Name:           "machine.poweroff",
			Doc:            "Switches the machine off.",
			Errors:         []string{"The kernel refuses to power off."},
			DefaultTimeout: 5 * time.Minute,
			Idempotent:     true,
		},
	}
}

func general() []Action {
	return []Action{
		{
			Name:           "inventory",
			Doc:            "Reads the machine's hardware and reports it.",
			Outputs:        []Output{{Name: "disks", Type: Int, Doc: "Number of disks."}, {Name: "nics", Type: Int, Doc: "Number of network interfaces."}, {Name: "memory", Type: Int, Doc: "Usable memory in bytes."}, {Name: "warnings", Type: Strings, Doc: "What could not be read."}},
			Errors:         []string{"The hardware can't be read at all; parts that can't are warnings of the inventory."},
			Idempotent:     true,
			DefaultTimeout: 5 * time.Minute,
		},
		{
			Name: "command",
			Doc:  "Runs a program of the agent system, which has few and no shell; for anything more use `container`.",
			Inputs: []Input{
				{Name: "command", Type: Strings, Required: true, Doc: "Program and its arguments."},
				{Name: "env", Type: Map, Doc: "Environment; the step's own `env` does as well."},
			},
			Outputs:        []Output{{Name: "exit_code", Type: Int, Doc: "Exit code."}, {Name: "stdout", Type: String, Doc: "Last 64 KiB of what it printed."}},
			Errors:         []string{"There is no such program.", "Its exit code isn't 0; its last lines are on the step."},
			Environment:    true,
			DefaultTimeout: 10 * time.Minute,
		},
		{
			Name: Container,
			Doc:  "Runs an OCI image on the machine, in namespaces of its own. The image is pulled through the server.",
			Inputs: []Input{
				{Name: "privileged", Type: Bool, Default: "false", Doc: "All capabilities and every device of the machine."},
				{Name: "network", Type: String, Values: []string{"host", "none"}, Default: "host", Doc: "The machine's network, or none."},
				{Name: "mounts", Type: List, Doc: "Folders of the machine that it sees.", Fields: []Input{
					{Name: "source", Type: String, Required: true, Doc: "Folder of the agent system, or a block device, which is mounted."},
					{Name: "target", Type: String, Required: true, Doc: "Path in the container."},
					{Name: "read_only", Type: Bool, Doc: "The container can't change it."},
				}},
				{Name: "workdir", Type: String, Default: "the image's", Doc: "Folder to start in."},
			},
			Outputs:        []Output{{Name: "exit_code", Type: Int, Doc: "Exit code."}, {Name: "stdout", Type: String, Doc: "Last 64 KiB of what it printed."}},
			Errors:         []string{"The image can't be pulled: the registry's own error is named.", "Its exit code isn't 0; its last lines are on the step."},
			Container:      true,
			Environment:    true,
			DefaultTimeout: time.Hour,
		},
		{
			Name: Approval,
			Doc:  "Waits for a person to say `bedplate workflow approve`. Rejected, or not approved in time, the step fails.",
			Inputs: []Input{
				{Name: "message", Type: String, Doc: "What the person is asked."},
			},
			Errors:         []string{"A person rejected it: who is named.", "Nobody answered in time."},
			Idempotent:     true,
			OnServer:       true,
			DefaultTimeout: 6 * time.Hour,
		},
		{
			Name:           "logs.collect",
			Doc:            "Sends the agent system's own kernel and agent messages to the workflow's log.",
			Inputs:         []Input{{Name: "lines", Type: Int, Default: "1000", Doc: "At most so many of the last lines of each."}},
			Outputs:        []Output{{Name: "lines", Type: Int, Doc: "Number of lines sent."}},
			Errors:         []string{"The kernel's messages can't be read."},
			Idempotent:     true,
			DefaultTimeout: 2 * time.Minute,
		},
		{
			Name:           Noop,
			Doc:            "Does nothing, at once. For tests and measurements.",
			Idempotent:     true,
			DefaultTimeout: time.Minute,
		},
	}
}
