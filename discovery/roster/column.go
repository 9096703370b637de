package roster

import (
	"strconv"
	"strings"

	"github.com/bedplate/bedplate/resource"
)

// Column is one field that lists can have.
type Column struct {
	Name string
	// Also are other names for it.
	Also []string
	// Many may come several times, with a number: mac, mac2, mac3.
	Many bool
	Doc  string
}

// Columns returns every field that lists can have.
func Columns() []Column {
	return []Column{
		{Name: "name", Also: []string{"machine", "node", "server", "host", "machine_name", "server_name", "device", "device_name"}, Doc: "the machine's name; made from its hostname, serial number, first MAC or BMC address where it is missing"},
		{Name: "hostname", Also: []string{"host_name", "fqdn"}, Doc: "spec.hostname"},
		{Name: "serial", Also: []string{"serial_number", "serialnumber", "service_tag", "sn"}, Doc: "spec.serial"},
		{Name: "uuid", Also: []string{"smbios_uuid", "system_uuid"}, Doc: "spec.uuid"},
		{Name: "mac", Also: []string{"mac_address", "macaddress", "boot_mac", "pxe_mac", "macs", "mac_addresses"}, Many: true, Doc: "spec.interfaces; macs may have several, with spaces between them"},
		{Name: "address", Also: []string{"ip", "ip_address", "ipv4", "primary_ip"}, Many: true, Doc: "reserved address of the interface, with its prefix length: 10.77.0.31/24"},
		{Name: "gateway", Also: []string{"gw", "default_gateway"}, Many: true, Doc: "the interface's gateway"},
		{Name: "switch", Also: []string{"switch_name"}, Many: true, Doc: "the switch that the interface is cabled to"},
		{Name: "switch_port", Also: []string{"port", "switchport"}, Many: true, Doc: "the port of that switch"},
		{Name: "bmc_address", Also: []string{"bmc", "bmc_ip", "bmc_host", "bmc_hostname", "ipmi", "ipmi_address", "ipmi_ip", "ipmi_host", "ilo", "ilo_address", "ilo_ip", "idrac", "idrac_address", "idrac_ip", "redfish", "redfish_address", "oob", "oob_ip", "oob_address", "management_ip", "mgmt_ip"}, Doc: "spec.bmc.address; a URL's host is taken"},
		{Name: "bmc_username", Also: []string{"bmc_user", "bmc_login", "ipmi_username", "ipmi_user", "ilo_user", "idrac_user", "username", "user"}, Doc: "spec.bmc.username"},
		{Name: "bmc_password", Also: []string{"bmc_pass", "ipmi_password", "ipmi_pass", "ilo_password", "idrac_password", "password", "pass"}, Doc: "goes into a Secret, under the machine's name"},
		{Name: "bmc_password_secret", Also: []string{"password_secret"}, Doc: "spec.bmc.password_secret, instead of a password"},
		{Name: "bmc_protocol", Also: []string{"protocol"}, Doc: "spec.bmc.protocol: auto, redfish or ipmi"},
		{Name: "bmc_tls", Also: []string{"tls"}, Doc: "spec.bmc.tls: pin, ca or insecure"},
		{Name: "bmc_certificate_digest", Also: []string{"certificate_digest"}, Doc: "spec.bmc.certificate_digest"},
		{Name: "bmc_ipmi_port", Also: []string{"ipmi_port"}, Doc: "spec.bmc.ipmi_port"},
		{Name: "bmc_driver", Doc: "spec.bmc.driver: dell, supermicro, asrockrack, openbmc, amt or gofish"},
		{Name: "bmc_mac", Also: []string{"bmc_mac_address", "ipmi_mac", "ilo_mac", "idrac_mac", "oob_mac"}, Doc: "the BMC's own MAC address: passwords may be listed by it"},
		{Name: "rack", Doc: "spec.rack"},
		{Name: "pool", Doc: "spec.pool"},
		{Name: "power_group", Also: []string{"pdu"}, Doc: "spec.power_group"},
		{Name: "console", Also: []string{"serial_console"}, Doc: "spec.console"},
		{Name: "kernel_args", Also: []string{"kernel_arguments", "cmdline"}, Doc: "spec.kernel_args, with spaces between them"},
		{Name: "boot_method", Doc: "spec.boot_method: network or virtual-media"},
		{Name: "asset_tag", Also: []string{"asset", "asset_number"}, Doc: "the label asset-tag"},
	}
}

// labelPrefix begins columns that are labels: labels.role.
const labelPrefix = "labels."

// columns finds columns by any of their names.
var columns = func() map[string]Column {
	out := map[string]Column{}
	for _, c := range Columns() {
		for _, name := range append([]string{c.Name}, c.Also...) {
			out[name] = c
		}
	}
	return out
}()

// normalName writes a name as columns is keyed: in lower case, with _ between words.
func normalName(s string) string {
	s = strings.ToLower(strings.TrimSpace(s))
	s = strings.TrimPrefix(s, "spec.")
	return strings.Trim(strings.Map(func(r rune) rune {
		if r == ' ' || r == '-' || r == '.' || r == '/' {
			return '_'
		}
		return r
	}, s), "_")
}

// maxInterfaces is how many interfaces a Machine may have.
const maxInterfaces = 64

// parseColumn says what a column of that name is. For labels key is set.
func parseColumn(written string) (column string, n int, key string, ok bool) {
	trimmed := strings.TrimSpace(written)
	lower := strings.ToLower(trimmed)
	for _, prefix := range []string{labelPrefix, "label.", "labels:", "label:", "labels_", "label_"} {
		if strings.HasPrefix(lower, prefix) && len(trimmed) > len(prefix) {
			return "label", 0, trimmed[len(prefix):], true
		}
	}
	name := normalName(trimmed)
	if c, found := columns[name]; found {
		return c.Name, 1, "", true
	}
	base := strings.TrimRight(name, "0123456789")
	n, err := strconv.Atoi(name[len(base):])
	c, found := columns[strings.TrimSuffix(base, "_")]
	if err != nil || !found || !c.Many || n > maxInterfaces {
		return "", 0, "", false
	}
	// Some lists count from 0: mac0 is the first, as mac and mac1 are.
	return c.Name, max(n, 1), "", true
}

// unknownColumn says what may have been meant.
func unknownColumn(written string) string {
	var names []string
	for name := range columns {
		names = append(names, name)
	}
	if near := resource.Nearest(normalName(written), names); near != "" {
		return "there is no such column; did you mean " + near + "?"
	}
	return "there is no such column; for a label call it " + labelPrefix + strings.ToLower(strings.TrimSpace(written)) + ", or pass over it with --ignore-column"
}

// ignored reports whether a column is to be passed over.
func (r *reader) ignored(written string) bool {
	for _, name := range r.opts.Ignore {
		if normalName(name) == normalName(written) {
			return true
		}
	}
	return false
}
