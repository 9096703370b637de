package roster

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// NetBox's objects, as its REST API gives them (/api/dcim/devices/,
// /api/dcim/interfaces/, /api/dcim/mac-addresses/, /api/ipam/ip-addresses/; a
// page of `results`, or the list alone), or its GraphQL API (`data` with
// device_list, interface_list, ip_address_list). Seen: REST of NetBox 2.10
// (device_role, connected_endpoint), 3.7 and 4.x (role, connected_endpoints,
// oob_ip since 3.6, MAC addresses as objects since 4.2).
type netbox struct {
	*reader
	devices    []*node
	interfaces []*node
	addresses  []*node
	macs       []*node
}

func (r *reader) readNetBox(files []File) {
	nb := &netbox{reader: r}
	for _, f := range files {
		root, err := parseJSON(f)
		if err != nil {
			r.fail(*err)
			continue
		}
		nb.file(root)
	}
	if len(r.errs) > 0 {
		return
	}
	if len(nb.devices) == 0 {
		r.fail(place{file: files[0].Name}.fail("", "there are no devices in it: export /api/dcim/devices/?limit=0"))
		return
	}
	byDevice, addresses, macs := nb.interfacesByDevice(), nb.byInterface(nb.addresses), nb.byInterface(nb.macs)
	for _, d := range nb.devices {
		dev := device{netbox: nb, d: d, rec: record{at: d.at, optional: true}, addresses: addresses, macs: macs}
		nics := append(slices.Clone(d.get("interfaces").items()), byDevice[id(d)]...)
		if name := d.get("name").text(); name != "" {
			nics = append(nics, byDevice["name "+name]...)
		}
		dev.read(nics)
	}
}

// file takes the objects of one file.
func (nb *netbox) file(root *node) {
	if next := root.get("next").text(); next != "" {
		nb.note("%s: it is one page of several: NetBox has more at %s; ?limit=0 exports all", root.at.file, next)
	}
	if data := root.get("data"); data != nil {
		root = data
	}
	named := false
	for _, part := range []struct {
		names []string
		into  *[]*node
	}{
		{[]string{"device_list", "devices"}, &nb.devices}, {[]string{"interface_list", "interfaces"}, &nb.interfaces},
		{[]string{"ip_address_list", "ip_addresses"}, &nb.addresses}, {[]string{"mac_address_list", "mac_addresses"}, &nb.macs},
	} {
		for _, name := range part.names {
			if list := root.get(name); list != nil && list.isList && root.get("device_type") == nil {
				*part.into, named = append(*part.into, list.list...), true
			}
		}
	}
	if named {
		return
	}
	if results := root.get("results"); results != nil {
		root = results
	}
	for _, n := range root.items() {
		nb.object(n)
	}
}

// object tells by its fields what an object is.
func (nb *netbox) object(n *node) {
	assigned := n.get("assigned_object") != nil || n.get("assigned_object_type") != nil || n.get("assigned_object_id") != nil
	switch {
	case n.get("device_type") != nil:
		nb.devices = append(nb.devices, n)
	case n.get("address") != nil && (assigned || n.get("family") != nil):
		nb.addresses = append(nb.addresses, n)
	case n.get("mac_address") != nil && assigned:
		nb.macs = append(nb.macs, n)
	case n.get("device") != nil && (n.get("type") != nil || n.get("mac_address") != nil || n.get("mgmt_only") != nil):
		nb.interfaces = append(nb.interfaces, n)
	case n.get("name") != nil && (n.get("serial") != nil || n.get("rack") != nil || n.get("site") != nil || n.get("interfaces") != nil):
		nb.devices = append(nb.devices, n)
	default:
		nb.fail(n.at.fail("", "not a device, interface, MAC address or IP address of NetBox"))
	}
}

// id is what an object is referred to by.
func id(n *node) string { return n.get("id").text() }

// interfacesByDevice finds interfaces by their device's id, or by its name
// where they don't say the id.
func (nb *netbox) interfacesByDevice() map[string][]*node {
	out := map[string][]*node{}
	for _, n := range nb.interfaces {
		d := n.get("device")
		key := id(d)
		if key == "" {
			key = "name " + d.title()
		}
		out[key] = append(out[key], n)
	}
	return out
}

// byInterface finds what is assigned to interfaces by the interface's id.
func (nb *netbox) byInterface(objects []*node) map[string][]*node {
	out := map[string][]*node{}
	for _, n := range objects {
		if t := n.get("assigned_object_type").text(); t != "" && t != "dcim.interface" {
			continue
		}
		key := cmp.Or(n.get("assigned_object_id").text(), id(n.get("assigned_object")))
		if key != "" {
			out[key] = append(out[key], n)
		}
	}
	return out
}

// device reads one device into a record.
type device struct {
	*netbox
	d               *node
	rec             record
	addresses, macs map[string][]*node
	// any: something is known of the addresses of its interfaces.
	any bool
}

// add adds a field, if the node says something.
func (d *device) add(column string, n int, v *node, text string) {
	if v != nil {
		d.rec.add(column, n, text, column, v.at)
	}
}

// left are the states of devices that are no machines any more, or not yet.
var left = []string{"decommissioning", "inventory"}

func (d *device) read(nics []*node) {
	if s := d.d.get("status").text(); slices.Contains(left, strings.ToLower(s)) {
		d.note("%s: %s is %s: passed over", d.rec.at.text(), d.d.get("name").text(), s)
		return
	}
	d.add("name", 1, d.d.get("name"), d.d.get("name").text())
	d.add("serial", 1, d.d.get("serial"), d.d.get("serial").text())
	d.add("asset_tag", 1, d.d.get("asset_tag"), d.d.get("asset_tag").text())
	d.add("rack", 1, d.d.get("rack"), d.d.get("rack").title())
	for _, label := range []struct{ key, field string }{{"site", "site"}, {"location", "location"}, {"role", "role"}, {"role", "device_role"}, {"tenant", "tenant"}} {
		d.label(label.key, d.d.get(label.field))
	}
	d.custom(d.d.get("custom_fields"))
	d.cables(nics)
	d.records = append(d.records, d.rec)
}

// label adds a label once; its value without what labels can't have.
func (d *device) label(key string, v *node) {
	text := strings.Join(strings.FieldsFunc(v.text(), func(r rune) bool { return strings.ContainsRune("=!(), \t\n", r) }), "-")
	if v == nil || text == "" || slices.ContainsFunc(d.rec.fields, func(f field) bool { return f.column == "label" && f.key == key }) {
		return
	}
	d.rec.fields = append(d.rec.fields, field{column: "label", key: key, value: text, written: key, at: v.at})
}

// ours are the custom fields that are taken by their own name; any column is
// taken with bedplate_ before it.
var ours = []string{"pool", "power_group", "console", "kernel_args", "boot_method", "bmc_address", "bmc_username", "bmc_password", "bmc_password_secret", "bmc_protocol", "bmc_tls", "bmc_mac"}

func (d *device) custom(fields *node) {
	if fields == nil {
		return
	}
	for name, v := range fields.fields {
		bare, prefixed := strings.CutPrefix(normalName(name), "bedplate_")
		column, n, key, ok := parseColumn(bare)
		if !ok || !prefixed && !slices.Contains(ours, bare) || v.text() == "" {
			continue
		}
		d.rec.fields = append(d.rec.fields, field{column: column, n: n, key: key, value: v.text(), written: "custom_fields." + name, at: v.at})
	}
	slices.SortStableFunc(d.rec.fields, func(a, b field) int { return cmp.Or(a.at.line-b.at.line, a.at.column-b.at.column) })
}

func (d *device) has(column string) bool {
	return slices.ContainsFunc(d.rec.fields, func(f field) bool { return f.column == column })
}

// cables reads interfaces, with what they are cabled to, and the BMC.
func (d *device) cables(nics []*node) {
	if oob := d.d.get("oob_ip"); oob != nil && !d.has("bmc_address") {
		d.add("bmc_address", 1, oob, addressOf(oob))
	}
	n := 0
	seen := map[string]bool{}
	for _, nic := range nics {
		if i := id(nic); i != "" && seen[i] {
			continue // given in the device and in a file of interfaces
		} else if i != "" {
			seen[i] = true
		}
		mac := d.mac(nic)
		if nic.get("mgmt_only").text() == "true" {
			d.management(nic, mac)
			continue
		}
		if mac == nil || slices.Contains([]string{"virtual", "lag", "bridge"}, strings.ToLower(nic.get("type").text())) {
			continue
		}
		n++
		d.add("mac", n, mac, mac.text())
		d.neighbour(nic, n)
		d.address(nic, n)
	}
	d.primary(n)
}

// mac returns an interface's MAC address, wherever this version has it.
func (d *device) mac(nic *node) *node {
	for _, v := range []*node{nic.get("mac_address"), nic.get("primary_mac_address", "mac_address"), nic.get("macAddress")} {
		if v.text() != "" {
			return v
		}
	}
	for _, m := range append(nic.get("mac_addresses").items(), d.macs[id(nic)]...) {
		if v := m.get("mac_address"); v.text() != "" {
			return v
		}
	}
	return nil
}

// management takes what a management interface says of the BMC.
func (d *device) management(nic, mac *node) {
	if mac != nil && !d.has("bmc_mac") {
		d.add("bmc_mac", 1, mac, mac.text())
	}
	for _, a := range d.assigned(nic) {
		if text := addressOf(a); text != "" && !d.has("bmc_address") {
			d.add("bmc_address", 1, a, text)
		}
	}
}

// neighbour takes the switch port at the other end of the cable.
func (d *device) neighbour(nic *node, n int) {
	for _, name := range []string{"connected_endpoints", "connected_endpoint", "link_peers"} {
		if t := nic.get(name + "_type").text(); t != "" && t != "dcim.interface" {
			continue
		}
		for _, end := range nic.get(name).items() {
			if s, port := end.get("device").title(), end.get("name").text(); s != "" && port != "" {
				d.add("switch", n, end, s)
				d.add("switch_port", n, end, port)
				return
			}
		}
	}
}

// assigned returns the IP addresses of an interface.
func (d *device) assigned(nic *node) []*node {
	out := append(slices.Clone(nic.get("ip_addresses").items()), d.addresses[id(nic)]...)
	d.any = d.any || len(out) > 0
	return out
}

// address takes the interface's IPv4 address; of several the device's primary.
func (d *device) address(nic *node, n int) {
	primary := d.d.get("primary_ip4", "address").text()
	var found *node
	for _, a := range d.assigned(nic) {
		p, err := netip.ParsePrefix(a.get("address").text())
		if err != nil || !p.Addr().Is4() {
			continue
		}
		if found == nil || a.get("address").text() == primary {
			found = a
		}
	}
	if found != nil {
		d.add("address", n, found, found.get("address").text())
	}
}

// primary gives the device's primary address to its only interface, if the
// files don't say whose it is.
func (d *device) primary(nics int) {
	p := d.d.get("primary_ip4")
	if p.get("address").text() == "" || d.any {
		return
	}
	if nics == 1 {
		d.add("address", 1, p, p.get("address").text())
		return
	}
	if nics > 1 {
		d.note("%s: %s has several interfaces: give the export of /api/ipam/ip-addresses/ as well, to say which of them has %s",
			d.rec.at.text(), d.d.get("name").text(), p.get("address").text())
	}
}

// addressOf returns an IP address without its prefix length.
func addressOf(n *node) string {
	text, _, _ := strings.Cut(cmp.Or(n.get("address").text(), n.text()), "/")
	return text
}
