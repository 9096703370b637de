package roster

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/bedplate/bedplate/discovery"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// annotationBMCMAC has the MAC address of a machine's BMC: lists of passwords
// may know it by that.
const annotationBMCMAC = "bedplate/bmc-mac"

// assetTag is the label of that.
const assetTag = "asset-tag"

// build makes machines of the records, and compares them with one another.
func (r *reader) build() {
	names := map[string]place{}
	claims := map[string]place{}
	owners := map[string]string{}
	passwords := map[string]string{}
	for _, rec := range r.records {
		b := builder{reader: r, rec: rec, m: &pb.Machine{Metadata: &pb.Metadata{}, Spec: &pb.MachineSpec{}}, at: map[string]place{"": rec.at}}
		if !b.machine() {
			continue
		}
		name := b.m.GetMetadata().GetName()
		if was, twice := names[name]; twice {
			r.fail(b.place("metadata.name").fail(b.written["metadata.name"], "machine/%s is given twice: %s has it too", name, was.text()))
			continue
		}
		names[name] = b.place("metadata.name")
		for _, c := range resource.Claims(b.m) {
			if was, taken := claims[c.Value]; taken {
				_, text, _ := strings.Cut(c.Value, "=")
				r.fail(b.place(c.Path).fail(b.written[c.Path], "%s is machine/%s's already: %s", text, owners[c.Value], was.text()))
				continue
			}
			claims[c.Value], owners[c.Value] = b.place(c.Path), name
		}
		if b.password != "" {
			passwords[name] = b.password
		}
		r.list.Machines = append(r.list.Machines, Machine{Machine: b.m, file: rec.at.file, at: b.at})
	}
	r.secrets(passwords)
}

func (p place) text() string {
	if p.line == 0 {
		return p.file
	}
	return p.file + ":" + strconv.Itoa(p.line)
}

// secrets puts the passwords into as many Secrets as they need, and has the
// machines name theirs.
func (r *reader) secrets(passwords map[string]string) {
	names := slices.Sorted(maps.Keys(passwords))
	secretOf := map[string]string{}
	for i := 0; len(names) > 0; i++ {
		s := &pb.Secret{Metadata: &pb.Metadata{Name: r.opts.Secret}, Spec: &pb.SecretSpec{Data: map[string]string{}}}
		if i > 0 {
			s.Metadata.Name += "-" + strconv.Itoa(i+1)
		}
		some := names[:min(len(names), secretKeys)]
		names = names[len(some):]
		for _, n := range some {
			s.Spec.Data[n], secretOf[n] = passwords[n], s.Metadata.Name
		}
		r.list.Secrets = append(r.list.Secrets, s)
	}
	for _, m := range r.list.Machines {
		if s := secretOf[m.GetMetadata().GetName()]; s != "" {
			m.Spec.Bmc.PasswordSecret = s
		}
	}
}

// builder makes one machine.
type builder struct {
	*reader
	rec      record
	m        *pb.Machine
	password string
	// at and written say where a field of the machine is from, by its path.
	at      map[string]place
	written map[string]string
	bad     bool
}

// place returns where the field of that path, or the nearest around it, is.
func (b *builder) place(path string) place {
	for path != "" {
		if p, ok := b.at[path]; ok {
			return p
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return b.at[""]
}

func (b *builder) wrong(f field, format string, args ...any) {
	b.fail(f.at.fail(f.written, format, args...))
	b.bad = true
}

// note says where a field of the machine is from.
func (b *builder) from(path string, f field) {
	b.at[path], b.written[path] = f.at, f.written
}

// machine makes the machine, and reports whether there is one.
func (b *builder) machine() bool {
	b.written = map[string]string{}
	nics := map[int]*pb.Interface{}
	for _, f := range b.rec.fields {
		if columns[f.column].Many {
			b.nic(nics, f)
		} else {
			b.field(f)
		}
	}
	b.interfaces(nics)
	if b.bad {
		return false
	}
	if b.rec.optional && len(resource.Claims(b.m)) == 0 {
		b.reader.note("%s: %s has neither an interface with a MAC address nor a serial number nor a BMC: passed over", b.rec.at.text(), cmp.Or(b.m.GetMetadata().GetName(), "a device"))
		return false
	}
	if b.password != "" && b.m.GetSpec().GetBmc().GetAddress() == "" {
		b.fail(b.place("spec.bmc").fail(b.written["spec.bmc"], "a password is given, but no bmc_address"))
		return false
	}
	if !b.name() {
		return false
	}
	b.defaults()
	return b.valid()
}

// field sets what there is one of.
func (b *builder) field(f field) {
	s, md := b.m.Spec, b.m.Metadata
	switch f.column {
	case "name":
		md.Name = f.value
		b.from("metadata.name", f)
	case "hostname":
		s.Hostname = f.value
		b.from("spec.hostname", f)
	case "serial":
		s.Serial = f.value
		b.from("spec.serial", f)
	case "uuid":
		u, err := machine.ParseUUID(f.value)
		if err != nil {
			b.wrong(f, "%q: not a UUID such as 8f7c0a3e-52b1-4d0c-9d3c-0a1b2c3d4e5f", f.value)
		}
		s.Uuid = string(u)
		b.from("spec.uuid", f)
	case "rack":
		s.Rack = f.value
		b.from("spec.rack", f)
	case "pool":
		s.Pool = f.value
		b.from("spec.pool", f)
	case "power_group":
		s.PowerGroup = f.value
		b.from("spec.power_group", f)
	case "console":
		s.Console = f.value
		b.from("spec.console", f)
	case "kernel_args":
		s.KernelArgs = append(s.KernelArgs, strings.Fields(f.value)...)
		b.from("spec.kernel_args", f)
	case "boot_method":
		s.BootMethod = strings.ToLower(f.value)
		b.from("spec.boot_method", f)
	case "asset_tag":
		b.label(assetTag, f)
	case "label":
		b.label(f.key, f)
	default:
		b.bmc(f)
	}
}

func (b *builder) label(key string, f field) {
	if b.m.Metadata.Labels == nil {
		b.m.Metadata.Labels = map[string]string{}
	}
	b.m.Metadata.Labels[key] = f.value
	b.from("metadata.labels."+key, f)
	b.from(fmt.Sprintf("metadata.labels[%q]", key), f)
}

// bmc sets what is about the BMC.
func (b *builder) bmc(f field) {
	if f.column == "bmc_mac" {
		mac, err := machine.ParseMAC(f.value)
		if err != nil {
			b.wrong(f, "%v", err)
			return
		}
		b.m.Metadata.Annotations = map[string]string{annotationBMCMAC: mac.String()}
		return
	}
	if b.m.Spec.Bmc == nil {
		b.m.Spec.Bmc = &pb.BMC{}
		b.from("spec.bmc", f)
	}
	bmc := b.m.Spec.Bmc
	switch f.column {
	case "bmc_address":
		bmc.Address = host(f.value)
		b.from("spec.bmc.address", f)
	case "bmc_username":
		bmc.Username = f.value
		b.from("spec.bmc.username", f)
	case "bmc_password":
		b.password = f.value
	case "bmc_password_secret":
		bmc.PasswordSecret = f.value
		b.from("spec.bmc.password_secret", f)
	case "bmc_protocol":
		bmc.Protocol = strings.ToLower(f.value)
		b.from("spec.bmc.protocol", f)
	case "bmc_tls":
		bmc.Tls = strings.ToLower(f.value)
		b.from("spec.bmc.tls", f)
	case "bmc_driver":
		bmc.Driver = strings.ToLower(f.value)
		b.from("spec.bmc.driver", f)
	case "bmc_ipmi_port":
		n, err := strconv.ParseUint(f.value, 10, 16)
		if err != nil {
			b.wrong(f, "%q is no port: it is a number from 1 to 65535", f.value)
		}
		bmc.IpmiPort = uint32(n)
		b.from("spec.bmc.ipmi_port", f)
	case "bmc_certificate_digest":
		bmc.CertificateDigest = strings.ToLower(f.value)
		b.from("spec.bmc.certificate_digest", f)
	}
}

// host takes the host, with its port, of what may be a URL or an address with
// its prefix length.
func host(s string) string {
	if strings.Contains(s, "://") {
		if u, err := url.Parse(s); err == nil && u.Host != "" {
			return u.Host
		}
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Addr().String()
	}
	return strings.TrimSuffix(s, "/")
}

// nic sets a field of one interface.
func (b *builder) nic(nics map[int]*pb.Interface, f field) {
	texts := []string{f.value}
	if f.column == "mac" {
		texts = strings.FieldsFunc(f.value, func(r rune) bool { return strings.ContainsRune(" ,;|\n", r) })
	}
	for i, text := range texts {
		n := f.n + i
		if n > maxInterfaces {
			b.wrong(f, "more than %d interfaces", maxInterfaces)
			return
		}
		if nics[n] == nil {
			nics[n] = &pb.Interface{}
		}
		nic, path := nics[n], "nic"+strconv.Itoa(n)
		b.from(path, f)
		b.from(path+"."+f.column, f)
		switch f.column {
		case "mac":
			mac, err := machine.ParseMAC(text)
			if err != nil {
				b.wrong(f, "%v", err)
				return
			}
			if nic.Mac != "" {
				b.wrong(f, "interface %d has a MAC address already: %s", n, nic.Mac)
				return
			}
			nic.Mac = mac.String()
		case "address":
			nic.Address = text
		case "gateway":
			nic.Gateway = text
		case "switch":
			nic.Switch = text
		case "switch_port":
			nic.SwitchPort = text
		}
	}
}

// interfaces puts the interfaces into the machine, in the order of their numbers.
func (b *builder) interfaces(nics map[int]*pb.Interface) {
	for _, n := range slices.Sorted(maps.Keys(nics)) {
		nic, from := nics[n], "nic"+strconv.Itoa(n)
		if _, wrong := b.at[from+".mac"]; nic.Mac == "" && wrong {
			continue // that has been said
		}
		if nic.Mac == "" {
			b.fail(b.at[from].fail(b.written[from], "interface %d has no MAC address", n))
			b.bad = true
			continue
		}
		path := fmt.Sprintf("spec.interfaces[%d]", len(b.m.Spec.Interfaces))
		b.m.Spec.Interfaces = append(b.m.Spec.Interfaces, nic)
		for _, name := range []string{"", ".mac", ".address", ".gateway", ".switch", ".switch_port"} {
			if p, ok := b.at[from+name]; ok {
				b.at[path+name], b.written[path+name] = p, b.written[from+name]
			}
		}
	}
	for n := range nics {
		for _, name := range []string{"", ".mac", ".address", ".gateway", ".switch", ".switch_port"} {
			delete(b.at, "nic"+strconv.Itoa(n)+name)
		}
	}
}

// name makes a valid name of the one that is given, or of the first thing that
// the machine is known by.
func (b *builder) name() bool {
	md, s := b.m.Metadata, b.m.Spec
	for _, from := range []struct{ text, what string }{
		{md.GetName(), "name"}, {s.GetHostname(), "hostname"}, {s.GetSerial(), "serial number"}, {firstMAC(s), "MAC address"}, {s.GetBmc().GetAddress(), "BMC address"}, {s.GetUuid(), "UUID"},
	} {
		if from.text == "" {
			continue
		}
		if resource.ValidName(from.text) {
			md.Name = from.text
			return true
		}
		name, err := discovery.Name(from.text)
		if err != nil {
			b.fail(b.place("metadata.name").fail(cmp.Or(b.written["metadata.name"], "name"), "%v", err))
			return false
		}
		if !strings.EqualFold(name, from.text) {
			b.reader.note("%s: %s is made of the %s %q", b.rec.at.text(), name, from.what, from.text)
		}
		md.Name = name
		return true
	}
	b.fail(b.rec.at.fail("", "a machine needs something to know it by: a mac, a serial, a uuid or a bmc_address"))
	return false
}

// firstMAC is for names, as discovered machines have them.
func firstMAC(s *pb.MachineSpec) string {
	if len(s.GetInterfaces()) == 0 {
		return ""
	}
	return "m-" + strings.ReplaceAll(s.GetInterfaces()[0].GetMac(), ":", "")
}

// defaults sets what the options say where the file says nothing.
func (b *builder) defaults() {
	if b.m.Spec.GetPool() == "" {
		b.m.Spec.Pool = b.opts.Pool
	}
	for k, v := range b.opts.Labels {
		if _, given := b.m.GetMetadata().GetLabels()[k]; !given {
			if b.m.Metadata.Labels == nil {
				b.m.Metadata.Labels = map[string]string{}
			}
			b.m.Metadata.Labels[k] = v
		}
	}
}

// valid reports what Validate finds, at its place in the file.
func (b *builder) valid() bool {
	err := resource.Validate(b.m)
	var invalid *resource.FieldErrors
	switch {
	case errors.As(err, &invalid):
		for _, e := range invalid.Errors {
			b.fail(b.place(e.Path).fail(cmp.Or(b.written[e.Path], e.Path), "%s", e.Message))
		}
	case err != nil:
		b.fail(b.rec.at.fail("", "%v", err))
	}
	return err == nil
}
