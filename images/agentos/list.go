package agentos

// serverModules are the drivers that servers of the last fifteen years and
// virtual machines need to reach the network and their disks, and the file
// systems and facilities that the agent's steps use. Names that a kernel has
// built in cost nothing; names that it lacks are listed in the manifest.
var serverModules = []string{
	// Virtual machines: QEMU, VMware, Hyper-V, Xen, clouds.
	"virtio_pci", "virtio_mmio", "virtio_net", "virtio_blk", "virtio_scsi", "virtio-rng", "virtio_balloon", "virtio_console",
	"vmxnet3", "vmw_pvscsi", "hv_vmbus", "hv_netvsc", "hv_storvsc", "hv_utils", "xen-netfront", "xen-blkfront", "ena", "gve", "mana",

	// Ethernet.
	"e1000", "e1000e", "igb", "igbvf", "igc", "ixgbe", "ixgbevf", "i40e", "iavf", "ice",
	"mlx4_core", "mlx4_en", "mlx5_core", "mlxfw", "bnx2", "bnx2x", "bnxt_en", "tg3", "be2net", "enic",
	"qed", "qede", "qlcnic", "netxen_nic", "sfc", "sfc-siena", "sfc-falcon", "cxgb4", "cxgb4vf", "nfp", "hinic", "ionic",
	"atlantic", "amd-xgbe", "r8169", "8139cp", "8139too", "forcedeth", "sky2", "alx", "atl1c", "stmmac", "dwmac-intel", "lan743x",
	"usbnet", "cdc_ether", "cdc_ncm", "rndis_host", "ax88179_178a", "r8152", "asix",
	// PHYs that those ask for by name at run time.
	"realtek", "marvell", "broadcom", "smsc", "intel-xway", "at803x", "micrel", "aquantia", "fixed_phy",

	// Disks and their controllers.
	"nvme", "nvme-tcp", "vmd", "ahci", "ata_piix", "ata_generic", "sata_nv", "sata_mv", "sata_sil24", "sata_sil", "sata_svw", "sata_via",
	"sd_mod", "sr_mod", "sg", "ses", "megaraid_sas", "megaraid_mbox", "mpt3sas", "mpi3mr", "mptsas", "mptspi", "smartpqi", "hpsa", "aacraid",
	"arcmsr", "3w-sas", "3w-9xxx", "isci", "mvsas", "pm80xx", "aic94xx", "hptiop", "lpfc", "qla2xxx", "scsi_dh_alua", "scsi_dh_rdac",
	"iscsi_tcp", "iscsi_ibft", "nd_pmem", "nfit", "sdhci-pci", "sdhci-acpi", "mmc_block", "loop",
	"dm-mod", "dm-crypt", "dm-mirror", "dm-snapshot", "dm-thin-pool", "dm-multipath", "dm-service-time", "dm-verity", "dm-integrity",
	"md-mod", "linear", "raid0", "raid1", "raid10", "raid456", "dm-raid",

	// File systems; the code pages that vfat asks for.
	"ext4", "xfs", "btrfs", "vfat", "nls_cp437", "nls_ascii", "nls_iso8859-1", "nls_utf8", "squashfs", "overlay", "isofs", "udf", "erofs", "efivarfs", "fuse",

	// USB, for keyboards at the console, virtual media and virtual NICs of BMCs.
	"xhci-pci", "ehci-pci", "ohci-pci", "uhci-hcd", "usb-storage", "uas", "usbhid", "hid-generic",

	// The BMC, sensors, firmware tables, watchdogs, TPMs.
	"ipmi_si", "ipmi_devintf", "ipmi_ssif", "ipmi_poweroff", "acpi_ipmi", "qemu_fw_cfg", "edd", "dmi-sysfs",
	"iTCO_wdt", "hpwdt", "sp5100_tco", "i6300esb", "wdat_wdt", "i2c-i801", "i2c-piix4", "drivetemp", "coretemp", "k10temp",
	"tpm_tis", "tpm_crb", "tpm_tis_spi", "msr", "cpuid", "button", "efi-pstore", "softdog",

	// Networks: VLANs, bonds, bridges for containers, TLS in the kernel.
	"8021q", "bonding", "team", "bridge", "veth", "dummy", "tls", "af_packet", "macvlan",

	// Algorithms that the above ask for by alias. Of the fast forms only the
	// one that file systems use: loading aesni-intel and its like, which processors
	// ask for by modalias, took a second of self-tests, and nothing here encrypts in the kernel.
	"crc32c_generic", "crc32c-intel", "crc32_generic", "crct10dif_generic", "crc64_rocksoft_generic",
	"sha256_generic", "sha512_generic", "xxhash_generic", "blake2b_generic", "xts", "ecb", "gcm", "ghash-generic",
	"essiv", "zstd", "lz4", "algif_hash", "algif_skcipher",
}
