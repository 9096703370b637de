package lab

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/bedplate/bedplate/machine"
)

// Spec defines a rack. In YAML the fields have the names in lower case given
// here; everything but the machines may be left out.
type Spec struct {
	// Name tells labs apart; also part of the machines' serial numbers. Default: lab.
	Name string `yaml:"name" json:"name"`
	// Accelerator is auto, kvm or tcg. Default: auto, which is kvm where a
	// tiny guest was seen to run with it.
	Accelerator string `yaml:"accelerator" json:"accelerator"`
	// Networks default to one bridge, br0, with 10.77.0.1/24.
	Networks []Network `yaml:"networks" json:"networks"`
	// Peers are other hosts on the networks: foreign DHCP servers, clients.
	Peers    []Peer        `yaml:"peers" json:"peers,omitempty"`
	Machines []MachineSpec `yaml:"machines" json:"machines"`
}

// Network is a bridge that machines are connected to.
type Network struct {
	// Name is also the name of the bridge's interface. Default: br0, br1, …
	Name string `yaml:"name" json:"name"`
	// Address is the bridge's own, with the length of the prefix: 10.77.0.1/24.
	Address string `yaml:"address" json:"address"`
	// Behind is the name of another network. The bridge is then in a namespace
	// of its own, a router whose address on that other network is Uplink; this
	// is where DHCP relay agents run.
	Behind string `yaml:"behind" json:"behind,omitempty"`
	Uplink string `yaml:"uplink" json:"uplink,omitempty"`
	// Quiet leaves out the router advertisements.
	Quiet bool `yaml:"quiet" json:"quiet,omitempty"`
}

// Peer is a namespace with one interface, eth0, on a network.
type Peer struct {
	Name    string `yaml:"name" json:"name"`
	Network string `yaml:"network" json:"network"`
	Address string `yaml:"address" json:"address"`
}

// Firmware is what a machine starts with.
type Firmware string

// The kinds of firmware.
const (
	// BIOS is SeaBIOS with iPXE as the network card's option ROM.
	BIOS Firmware = "bios"
	// UEFI is OVMF with its own PXE client.
	UEFI Firmware = "uefi"
	// UEFIHTTP is OVMF with PXE switched off, so that it boots by HTTP.
	UEFIHTTP Firmware = "uefi-http"
	// UEFISecure is OVMF with Secure Boot enforced and Microsoft's keys.
	UEFISecure Firmware = "uefi-secure"
	// UEFISecureHTTP is UEFISecure booting by HTTP.
	UEFISecureHTTP Firmware = "uefi-secure-http"
)

var firmwares = []Firmware{BIOS, UEFI, UEFIHTTP, UEFISecure, UEFISecureHTTP}

func (f Firmware) uefi() bool   { return f != BIOS }
func (f Firmware) secure() bool { return f == UEFISecure || f == UEFISecureHTTP }
func (f Firmware) http() bool   { return f == UEFIHTTP || f == UEFISecureHTTP }

// MachineSpec defines one machine.
type MachineSpec struct {
	Name string `yaml:"name" json:"name"`
	// Firmware defaults to bios.
	Firmware Firmware `yaml:"firmware" json:"firmware"`
	// CPUs default to 1.
	CPUs int `yaml:"cpus" json:"cpus"`
	// Memory, such as 1024M or 2G. Default: 1G.
	Memory Size `yaml:"memory" json:"memory"`
	// Disks default to one of 4G on virtio.
	Disks []DiskSpec `yaml:"disks" json:"disks"`
	// Network is the name of one of the lab's. Default: the first.
	Network string `yaml:"network" json:"network"`
	// MAC, UUID and Serial are made from the lab's name and the place in the list.
	MAC    string `yaml:"mac" json:"mac"`
	UUID   string `yaml:"uuid" json:"uuid"`
	Serial string `yaml:"serial" json:"serial"`
	// Boot is the order of boot devices. Default: network, disk, as servers do.
	Boot []string `yaml:"boot" json:"boot"`
	// NIC is the model: virtio, e1000, e1000e, igb, vmxnet3, rtl8139. Default: virtio.
	NIC string `yaml:"nic" json:"nic"`
	// NICs are further network cards. Only the first card boots.
	NICs []NICSpec `yaml:"nics" json:"nics,omitempty"`
	// Power is off or on: whether it is switched on by Up. Default: off.
	Power string `yaml:"power" json:"power"`
	// TPM gives the machine a TPM 2.0, kept by swtpm.
	TPM bool `yaml:"tpm" json:"tpm,omitempty"`
	// BMC is the machine's management controller.
	BMC BMCSpec `yaml:"bmc" json:"bmc"`
	// Args are added to QEMU's command line.
	Args []string `yaml:"args" json:"args,omitempty"`
}

// NICSpec defines a further network card.
type NICSpec struct {
	// Network defaults to that of the machine.
	Network string `yaml:"network" json:"network"`
	MAC     string `yaml:"mac" json:"mac"`
	// Model defaults to that of the machine's first card.
	Model string `yaml:"model" json:"model"`
}

// DiskSpec defines one disk.
type DiskSpec struct {
	// Bus is virtio, nvme, scsi, ahci, or usb for a stick. Default: virtio.
	Bus string `yaml:"bus" json:"bus"`
	// Size such as 8G. Default: 4G.
	Size Size `yaml:"size" json:"size"`
}

// Size is a number of bytes; in YAML with a suffix K, M, G or T (powers of 1024).
type Size int64

// ParseSize reads 512M, 8G, or plain bytes.
func ParseSize(s string) (Size, error) {
	number, factor := strings.ToUpper(strings.TrimSpace(s)), int64(1)
	number = strings.TrimSuffix(strings.TrimSuffix(number, "B"), "I")
	if i := strings.IndexAny("KMGT", suffix(number)); i >= 0 {
		factor, number = 1<<(10*(i+1)), number[:len(number)-1]
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<50)/factor {
		return 0, fmt.Errorf("%q is no size such as 512M or 8G", s)
	}
	return Size(n * factor), nil
}

func suffix(s string) string {
	if s == "" {
		return "?"
	}
	return s[len(s)-1:]
}

// UnmarshalYAML reads a size from a scalar.
func (s *Size) UnmarshalYAML(n *yaml.Node) error {
	v, err := ParseSize(n.Value)
	if err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	*s = v
	return nil
}

// String returns the size with the largest suffix that loses nothing.
func (s Size) String() string {
	for i, suffix := range []string{"T", "G", "M", "K"} {
		if unit := Size(1) << (10 * (4 - i)); s >= unit && s%unit == 0 {
			return strconv.FormatInt(int64(s/unit), 10) + suffix
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// maxSpec bounds a definition file.
const maxSpec = 1 << 20

// ReadSpec reads a rack's definition; an unknown field is an error.
func ReadSpec(r io.Reader) (Spec, error) {
	var s Spec
	d := yaml.NewDecoder(io.LimitReader(r, maxSpec))
	d.KnownFields(true)
	if err := d.Decode(&s); err != nil && !errors.Is(err, io.EOF) {
		return Spec{}, fmt.Errorf("reading the lab's definition: %w", err)
	}
	return s, nil
}

// Bounds that keep a slip from asking for the impossible.
const (
	maxMachines = 64
	maxNICs     = 7
	maxName     = 32
	maxBridge   = 15 // IFNAMSIZ with the NUL
)

var nameRule = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

func checkName(what, name string, limit int) error {
	if !nameRule.MatchString(name) || len(name) > limit {
		return fmt.Errorf("%s %q: want up to %d lower case letters, digits and dashes", what, name, limit)
	}
	return nil
}

// complete fills in defaults and checks the whole.
func (s Spec) complete() (Spec, error) {
	if s.Name == "" {
		s.Name = "lab"
	}
	if err := checkName("lab", s.Name, maxName); err != nil {
		return s, err
	}
	if s.Accelerator == "" {
		s.Accelerator = "auto"
	}
	if !slices.Contains([]string{"auto", "kvm", "tcg"}, s.Accelerator) {
		return s, fmt.Errorf("accelerator %q: want auto, kvm or tcg", s.Accelerator)
	}
	if err := s.completeNetworks(); err != nil {
		return s, err
	}
	return s, s.completeMachines()
}

func (s *Spec) completeNetworks() error {
	if len(s.Networks) == 0 {
		s.Networks = []Network{{}}
	}
	s.Networks, s.Peers = slices.Clone(s.Networks), slices.Clone(s.Peers)
	seen := map[string]bool{"": true}
	for i := range s.Networks {
		n := &s.Networks[i]
		if n.Name == "" {
			n.Name = "br" + strconv.Itoa(i)
		}
		if n.Address == "" {
			n.Address = fmt.Sprintf("10.%d.0.1/24", 77+i)
		}
		if err := checkName("network", n.Name, maxBridge); err != nil {
			return err
		}
		if n.Behind != "" {
			if err := s.checkBehind(*n, seen); err != nil {
				return err
			}
		}
		if err := checkPrefix("network "+n.Name, n.Address); err != nil {
			return err
		}
		if seen[n.Name] {
			return fmt.Errorf("network %s is there twice", n.Name)
		}
		seen[n.Name] = true
	}
	for _, p := range s.Peers {
		if err := checkName("peer", p.Name, maxName); err != nil {
			return err
		}
		if seen[p.Name] {
			return fmt.Errorf("peer %s has the name of another peer or network", p.Name)
		}
		seen[p.Name] = true
		if _, err := s.network(p.Network); err != nil {
			return fmt.Errorf("peer %s: %w", p.Name, err)
		}
		if err := checkPrefix("peer "+p.Name, p.Address); err != nil {
			return err
		}
	}
	return nil
}

// checkBehind wants the network in front to be defined before.
func (s *Spec) checkBehind(n Network, defined map[string]bool) error {
	if !defined[n.Behind] {
		return fmt.Errorf("network %s is behind %q, which no network before it is called", n.Name, n.Behind)
	}
	return checkPrefix("uplink of network "+n.Name, n.Uplink)
}

func checkPrefix(what, s string) error {
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() || p.Addr() == p.Masked().Addr() {
		return fmt.Errorf("%s: address %q: want one such as 10.77.0.1/24", what, s)
	}
	return nil
}

// namespaceOf returns the name of the namespace that has a network's bridge.
func (s *Spec) namespaceOf(network string) string {
	if n, err := s.network(network); err == nil && n.Behind != "" {
		return n.Name
	}
	return ""
}

func (s *Spec) network(name string) (Network, error) {
	for _, n := range s.Networks {
		if n.Name == name {
			return n, nil
		}
	}
	return Network{}, fmt.Errorf("no network %q", name)
}

func (s *Spec) completeMachines() error {
	if len(s.Machines) > maxMachines {
		return fmt.Errorf("%d machines, want at most %d", len(s.Machines), maxMachines)
	}
	s.Machines = slices.Clone(s.Machines)
	seen := map[string]string{}
	for i := range s.Machines {
		m := &s.Machines[i]
		m.setDefaults(s, i)
		if err := m.check(s); err != nil {
			return fmt.Errorf("machine %s: %w", m.Name, err)
		}
		for _, id := range m.unique() {
			if other, ok := seen[id]; ok {
				return fmt.Errorf("machines %s and %s both have %s", other, m.Name, id)
			}
			seen[id] = m.Name
		}
	}
	return nil
}

// unique is what no two machines may have in common.
func (m *MachineSpec) unique() []string {
	ids := []string{m.Name, m.MAC, m.UUID}
	for _, n := range m.NICs {
		ids = append(ids, n.MAC)
	}
	if m.BMC.there() {
		ids = append(ids, m.BMC.Address)
	}
	return ids
}

// setDefaults fills in what is empty. i is the machine's place in the list.
func (m *MachineSpec) setDefaults(s *Spec, i int) {
	orElse := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	sum := sha256.Sum256([]byte(s.Name + "/" + strconv.Itoa(i)))
	sum[6], sum[8] = sum[6]&0x0f|0x40, sum[8]&0x3f|0x80
	h := hex.EncodeToString(sum[:16])
	orElse(&m.Name, "m"+strconv.Itoa(i+1))
	orElse(&m.Network, s.Networks[0].Name)
	orElse(&m.MAC, fmt.Sprintf("52:54:00:77:00:%02x", i+1))
	orElse(&m.UUID, h[:8]+"-"+h[8:12]+"-"+h[12:16]+"-"+h[16:20]+"-"+h[20:])
	orElse(&m.Serial, strings.ToUpper(s.Name)+"-"+fmt.Sprintf("%04d", i+1))
	orElse(&m.NIC, "virtio")
	orElse(&m.Power, "off")
	orElse((*string)(&m.Firmware), string(BIOS))
	if m.CPUs == 0 {
		m.CPUs = 1
	}
	if m.Memory == 0 {
		m.Memory = 1 << 30
	}
	if len(m.Boot) == 0 {
		m.Boot = []string{"network", "disk"}
	}
	m.Disks = slices.Clone(m.Disks)
	if m.Disks == nil {
		m.Disks = []DiskSpec{{}}
	}
	for d := range m.Disks {
		orElse(&m.Disks[d].Bus, "virtio")
		if m.Disks[d].Size == 0 {
			m.Disks[d].Size = 4 << 30
		}
	}
	m.NICs = slices.Clone(m.NICs)
	for n := range m.NICs {
		orElse(&m.NICs[n].Network, m.Network)
		orElse(&m.NICs[n].MAC, fmt.Sprintf("52:54:00:77:%02x:%02x", n+1, i+1))
		orElse(&m.NICs[n].Model, m.NIC)
	}
	m.BMC.setDefaults(s, m, i)
}

func (m *MachineSpec) check(s *Spec) error {
	if err := checkName("name", m.Name, maxName); err != nil {
		return err
	}
	if _, err := s.network(m.Network); err != nil {
		return err
	}
	if !slices.Contains(firmwares, m.Firmware) {
		return fmt.Errorf("firmware %q: want one of %v", m.Firmware, firmwares)
	}
	mac, err := machine.ParseMAC(m.MAC)
	if err != nil {
		return err
	}
	m.MAC = mac.String()
	id, err := machine.ParseUUID(m.UUID)
	if err != nil {
		return err
	}
	m.UUID = string(id)
	if strings.ContainsAny(m.Serial, ", \n") {
		return fmt.Errorf("serial number %q: want neither commas nor spaces", m.Serial)
	}
	if m.CPUs < 1 || m.CPUs > 64 {
		return fmt.Errorf("%d CPUs: want 1 to 64", m.CPUs)
	}
	if m.Memory < 128<<20 || m.Memory%(1<<20) != 0 {
		return fmt.Errorf("memory %s: want whole MiB and at least 128M", m.Memory)
	}
	if _, ok := nicModels[m.NIC]; !ok {
		return fmt.Errorf("NIC %q: want virtio, e1000, e1000e, igb, vmxnet3 or rtl8139", m.NIC)
	}
	if m.Power != "on" && m.Power != "off" {
		return fmt.Errorf("power %q: want on or off", m.Power)
	}
	for _, b := range m.Boot {
		if b != "network" && b != "disk" {
			return fmt.Errorf("boot device %q: want network or disk", b)
		}
	}
	if err := m.checkNICs(s); err != nil {
		return err
	}
	if err := m.BMC.check(s, m); err != nil {
		return fmt.Errorf("BMC: %w", err)
	}
	return m.checkDisks()
}

func (m *MachineSpec) checkNICs(s *Spec) error {
	if len(m.NICs) > maxNICs {
		return fmt.Errorf("%d further NICs: want at most %d", len(m.NICs), maxNICs)
	}
	for i := range m.NICs {
		n := &m.NICs[i]
		if _, err := s.network(n.Network); err != nil {
			return err
		}
		if _, ok := nicModels[n.Model]; !ok {
			return fmt.Errorf("NIC %q: want virtio, e1000, e1000e, igb, vmxnet3 or rtl8139", n.Model)
		}
		mac, err := machine.ParseMAC(n.MAC)
		if err != nil {
			return err
		}
		n.MAC = mac.String()
	}
	// A machine is a process in one network namespace.
	for _, n := range m.NICs {
		if s.namespaceOf(n.Network) != s.namespaceOf(m.Network) {
			return fmt.Errorf("networks %s and %s are not on the same side of a router", m.Network, n.Network)
		}
	}
	return nil
}

func (m *MachineSpec) checkDisks() error {
	if len(m.Disks) > 8 {
		return fmt.Errorf("%d disks: want at most 8", len(m.Disks))
	}
	for _, d := range m.Disks {
		if !slices.Contains([]string{"virtio", "nvme", "scsi", "ahci", "usb"}, d.Bus) {
			return fmt.Errorf("disk bus %q: want virtio, nvme, scsi, ahci or usb", d.Bus)
		}
		if d.Size < 1<<20 || d.Size%512 != 0 {
			return fmt.Errorf("disk size %s: want at least 1M, in whole sectors", d.Size)
		}
	}
	return nil
}
