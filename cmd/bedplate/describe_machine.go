package main

import (
	"fmt"
	"strings"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
)

func (p *page) machine(m *pb.Machine) {
	s, st := m.GetSpec(), m.GetStatus()
	p.line("State", p.a.style(p.a.stdout).State(resource.EnumName(st.GetState())))
	p.line("Cause", table.Clean(st.GetCause()))
	p.line("Since", p.a.ago(st.GetStateTime()))
	p.line("Deadline", p.a.ago(st.GetDeadline()))
	p.line("Next", st.GetNextAction())
	p.line("Next boot", resource.EnumName(st.GetNextBoot()))
	p.line("Workflow", st.GetWorkflow())
	p.line("Instance", st.GetInstance())
	p.line("Job", st.GetJob())
	p.line("Pool", s.GetPool())
	p.line("Rule", st.GetRule())
	p.line("Addresses", strings.Join(st.GetAddresses(), ", "))
	p.line("UUID", s.GetUuid())
	p.line("Serial", s.GetSerial())
	p.line("Hostname", s.GetHostname())
	p.line("Rack", s.GetRack())
	p.line("Power group", s.GetPowerGroup())
	p.line("Boot method", s.GetBootMethod())
	p.line("Console", s.GetConsole())
	p.line("Kernel args", strings.Join(s.GetKernelArgs(), " "))
	if bmc := s.GetBmc(); bmc != nil {
		p.line("BMC", strings.TrimSpace(bmc.GetAddress()+" "+bmc.GetUsername()))
	}
	p.bmc(st.GetBmc())
	if s.GetMaintenance() {
		p.line("Maintenance", "yes")
	}
	p.common(m)
	p.agent(st.GetAgent())
	p.interfaces(s.GetInterfaces())
	if len(st.GetDifferences()) > 0 {
		p.section("Not as expected")
		p.differences(st.GetDifferences(), "WANTED", "IS")
	}
	if err := p.expected(s.GetExpect()); err != nil {
		p.line("Expected", err.Error())
	}
	if len(st.GetTests()) > 0 {
		p.section("Tests")
		p.table(p.a.testResults(st.GetTests()))
	}
	if st.GetInventory() != nil {
		p.inventory(st.GetInventory())
	}
}

// bmc writes what was last seen of the BMC.
func (p *page) bmc(b *pb.BMCStatus) {
	if b == nil {
		return
	}
	p.line("BMC seen", strings.Join(notEmpty(strings.TrimSpace(b.GetVendor()+" "+b.GetModel()), b.GetProtocol(), prefixed("firmware ", b.GetFirmwareVersion()), p.a.ago(b.GetContactTime())), ", "))
	if b.GetEvents() {
		p.line("BMC events", "it tells of changes as they happen")
	}
	p.line("Power", strings.TrimPrefix(resource.EnumName(b.GetPower()), "power_"))
	p.line("Health", strings.Join(notEmpty(append([]string{b.GetHealth()}, b.GetHealthCauses()...)...), ", "))
	if r := b.GetRefusedLogin(); r != nil {
		p.line("BMC refuses", table.Clean(r.GetLogin())+", "+p.a.ago(r.GetTime())+": it isn't tried again until that or spec.bmc changes")
	}
	if b.GetRefusedLogin() == nil && b.GetCircuitOpen() {
		p.line("BMC error", table.Clean(b.GetError())+"; asked again "+p.a.ago(b.GetRetryTime()))
	} else {
		p.line("BMC error", table.Clean(b.GetError()))
	}
}

// expected writes the machine's own bill of materials.
func (p *page) expected(e *pb.Expectation) error {
	if e == nil {
		return nil
	}
	var text strings.Builder
	if err := resource.EncodeMessages(&text, resource.YAML, false, e); err != nil {
		return err
	}
	p.section("Expected")
	p.text(text.String())
	return nil
}

func (p *page) agent(agent *pb.AgentStatus) {
	if agent == nil {
		return
	}
	state := "not connected"
	if agent.GetConnected() {
		state = "connected since " + p.a.ago(agent.GetConnectTime())
	}
	p.line("Agent", strings.Join(notEmpty(state, agent.GetAddress(), agent.GetVersion()), ", "))
}

func (p *page) interfaces(nics []*pb.Interface) {
	if len(nics) == 0 {
		return
	}
	p.section("Interfaces")
	t := &table.Table{Header: []string{"MAC", "ADDRESS", "GATEWAY", "DHCP", "NETBOOT"}}
	for _, n := range nics {
		t.Add(n.GetMac(), orElse(n.GetAddress(), "from the pool"), n.GetGateway(), onOff(!n.GetDisableDhcp()), onOff(!n.GetDisableNetboot()))
	}
	p.table(t)
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func notEmpty(parts ...string) []string {
	var out []string
	for _, s := range parts {
		if s != "" {
			out = append(out, table.Clean(s))
		}
	}
	return out
}

// inventory writes the hardware as the agent read it. All of it comes from the
// machine, and is cleaned.
func (p *page) inventory(inv *pb.Inventory) {
	p.section("Hardware")
	t := &table.Table{}
	add := func(name string, parts ...string) {
		if parts = notEmpty(parts...); len(parts) > 0 {
			t.Add(name, strings.Join(parts, ", "))
		}
	}
	sys := inv.GetSystem()
	add("System", strings.TrimSpace(sys.GetManufacturer()+" "+sys.GetProduct()), prefixed("serial ", sys.GetSerial()), prefixed("uuid ", sys.GetUuid()))
	add("Firmware", strings.TrimSpace(inv.GetBios().GetVendor()+" "+inv.GetBios().GetVersion()), firmwareText(inv.GetFirmware()))
	add("Processors", processorText(inv))
	add("Memory", memoryText(inv.GetMemory()))
	if inv.GetTpm().GetPresent() {
		add("TPM", fmt.Sprintf("version %d", inv.GetTpm().GetVersion()))
	}
	if b := inv.GetBmc(); b.GetPresent() {
		add("BMC", b.GetAddress(), b.GetMac(), b.GetFirmwareVersion())
	}
	add("Read", p.a.ago(inv.GetCollectTime()), prefixed("under Linux ", inv.GetKernel()))
	for _, w := range inv.GetWarnings() {
		add("Warning", w)
	}
	p.table(t)
	p.disks(inv.GetDisks())
	p.nics(inv.GetNics())
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

func firmwareText(f *pb.FirmwareInfo) string {
	if f.GetMode() == "" {
		return ""
	}
	text := strings.ToUpper(f.GetMode())
	if f.GetMode() == "uefi" {
		text += ", Secure Boot " + onOff(f.GetSecureBoot())
	}
	return text
}

func processorText(inv *pb.Inventory) string {
	cpus := inv.GetProcessors()
	if len(cpus) == 0 {
		return inv.GetArchitecture()
	}
	var cores, threads uint32
	for _, c := range cpus {
		cores += c.GetCores()
		threads += c.GetThreads()
	}
	return fmt.Sprintf("%d × %s, %d cores, %d threads, %s", len(cpus), orElse(cpus[0].GetModel(), cpus[0].GetVendor()), cores, threads, inv.GetArchitecture())
}

func memoryText(m *pb.Memory) string {
	size := max(m.GetInstalledBytes(), m.GetUsableBytes())
	if size == 0 {
		return ""
	}
	text := table.Bytes(size)
	if n := len(m.GetModules()); n > 0 {
		text += fmt.Sprintf(" in %d modules", n)
	}
	return text
}

func (p *page) disks(disks []*pb.Disk) {
	if len(disks) == 0 {
		return
	}
	p.section("Disks")
	t := &table.Table{Header: []string{"NAME", "TYPE", "BUS", "SIZE", "MODEL", "SERIAL", "HEALTH"}}
	for _, d := range disks {
		health := ""
		if d.GetSmart().GetSupported() {
			health = "failing"
			if d.GetSmart().GetHealthy() {
				health = "good"
			}
		}
		t.Add(clean(d.GetName(), d.GetType(), d.GetBus(), table.DiskBytes(d.GetSizeBytes()), d.GetModel(), d.GetSerial(), health)...)
	}
	p.table(t)
}

func (p *page) nics(nics []*pb.NIC) {
	if len(nics) == 0 {
		return
	}
	p.section("Network interfaces")
	t := &table.Table{Header: []string{"NAME", "MAC", "DRIVER", "LINK", "SPEED", "SWITCH"}}
	for _, n := range nics {
		speed, link := "", "down"
		if n.GetLink() {
			link = "up"
		}
		if n.GetSpeedMbps() > 0 {
			speed = fmt.Sprintf("%d Mbit/s", n.GetSpeedMbps())
		}
		lldp := n.GetLldp()
		t.Add(clean(n.GetName(), n.GetMac(), n.GetDriver(), link, speed, strings.TrimSpace(lldp.GetSystemName()+" "+lldp.GetPortId()))...)
	}
	p.table(t)
}

func clean(cells ...string) []string {
	for i := range cells {
		cells[i] = table.Truncate(table.Clean(cells[i]), maxCell)
	}
	return cells
}
