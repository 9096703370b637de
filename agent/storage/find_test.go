package storage

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/workflow/expression"
)

// rack are disks as an inventory has them: two small ones, two large ones.
var rack = []*pb.Disk{
	{Name: "sdb", Path: "/dev/sdb", SizeBytes: 4e12, Type: "hdd", Serial: "H2", PciAddress: "0000:02:00.0"},
	{Name: "sda", Path: "/dev/sda", SizeBytes: 4e12, Type: "hdd", Serial: "H1", PciAddress: "0000:02:00.0"},
	{Name: "nvme1n1", Path: "/dev/nvme1n1", SizeBytes: 960e9, Type: "nvme", Serial: "N2", Wwn: "eui.0025388b71b2"},
	{Name: "nvme0n1", Path: "/dev/nvme0n1", SizeBytes: 480e9, Type: "nvme", Serial: "N1", Wwn: "0x5000c500a1b2c3d4"},
	{Name: "sr0", Path: "/dev/sr0", SizeBytes: 1e9, Removable: true},
	{Name: "sdc", Path: "/dev/sdc", ReadOnly: true, SizeBytes: 1e9, Serial: "RO"},
}

func evaluate(hint string, d *pb.Disk) (bool, error) {
	return expression.EvalDiskHint(context.Background(), hint, d)
}

func TestFind(t *testing.T) {
	for name, c := range map[string]struct {
		layout, hint string
		want         string // NAME=DISK …, or an error
	}{
		"the root is the smallest fixed disk that is left": {"{}", "", "root=nvme0n1"},
		"entries with one hint get a disk each, the first by PCI address and name": {
			`disks: [{name: a, hint: disk.type == "hdd"}, {name: b, hint: disk.type == "hdd"}]`, "", "a=sda b=sdb root=nvme0n1"},
		"the root takes what no entry wants": {
			`disks: [{name: a, hint: disk.type == "nvme"}]`, "", "a=nvme0n1 root=nvme1n1"},
		"a hint gives way where only that lets everybody have a disk": {
			`disks: [{name: any, hint: disk.type == "nvme"}, {name: small, hint: disk.size < 500*GB}]`, `disk.type == "hdd"`, "any=nvme1n1 root=sda small=nvme0n1"},
		"a hint for the root goes before the declaration's": {
			`root_disk: disk.type == "nvme"`, `disk.serial == "H2"`, "root=sdb"},
		"a disk is found by its serial number, WWN or path": {
			`disks: [{name: s, serial: n2}, {name: w, wwn: 5000C500A1B2C3D4}, {name: p, path: /dev/sdb}]`, "", "p=sdb root=sda s=nvme1n1 w=nvme0n1"},
		"a disk that isn't there is missed, and what is there is listed": {
			`disks: [{name: s, serial: X}]`, "", `error: there is no disk for s (serial X): sdc (1.0 GB RO): its serial is "RO"; sr0 (1.0 GB): its serial is ""; nvme0n1 (480.0 GB nvme N1): its serial is "N1"; nvme1n1 (960.0 GB nvme N2): its serial is "N2"; sda (4000.0 GB hdd H1): its serial is "H1"; sdb (4000.0 GB hdd H2): its serial is "H2"`},
		"a disk that is named but can't be written to": {
			`disks: [{name: s, serial: RO}]`, "", `error: there is no disk for s (serial RO): sdc (1.0 GB RO): read only;`},
		"more wishes than disks": {
			`disks: [{name: a, hint: disk.type == "hdd"}, {name: b, hint: disk.type == "hdd"}, {name: c, hint: disk.type == "hdd"}]`, "",
			`error: there is no disk for c (hint disk.type == "hdd"): sda (4000.0 GB hdd H1): taken by a; sdb (4000.0 GB hdd H2): taken by b; sdc (1.0 GB RO): read only; sr0 (1.0 GB): removable; nvme0n1`},
		"a removable disk is taken by a hint that says so": {
			`disks: [{name: cd, hint: disk.removable}]`, "", "cd=sr0 root=nvme0n1"},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := Find(layoutOf(t, c.layout), rack, c.hint, evaluate)
			if err != nil {
				if got := "error: " + err.Error(); !strings.HasPrefix(c.want, "error: ") || !strings.HasPrefix(got, c.want) {
					t.Errorf("got  %s\nwant %s", got, c.want)
				}
				return
			}
			got := map[string]string{}
			for n, d := range found {
				got[n] = d.GetName()
			}
			want := map[string]string{}
			for word := range strings.FieldsSeq(c.want) {
				k, v, _ := strings.Cut(word, "=")
				want[k] = v
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestTable_Merge(t *testing.T) {
	r := &runner{layout: layoutOf(t, "disks: [{name: d, serial: S}]\nfilesystems: [{device: d, type: ext4, path: /srv}]")}
	tab := table{name: "etc/fstab", lines: []string{"UUID=2 /srv ext4 defaults,nofail 0 2"}, mine: r.declaredMount}
	const image = "# the image's\nUUID=1 / ext4 defaults 0 1\nUUID=9 /srv/ nfs defaults 0 0"
	const want = "# the image's\nUUID=1 / ext4 defaults 0 1\n# replaced: UUID=9 /srv/ nfs defaults 0 0\n" +
		"# bedplate storage: begin\nUUID=2 /srv ext4 defaults,nofail 0 2\n# bedplate storage: end\n"
	got := tab.merge([]byte(image))
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, string(tab.merge(got))); diff != "" {
		t.Errorf("a second time (-want +got):\n%s", diff)
	}
	tab.lines = nil
	if got := string(tab.merge(got)); strings.Contains(got, "bedplate storage") {
		t.Errorf("without a declaration our lines stay:\n%s", got)
	}
}

func TestHeader_Slots(t *testing.T) {
	h, err := parseHeader(`{"keyslots":{"0":{},"1":{},"3":{}},"tokens":{"0":{"type":"systemd-tpm2","keyslots":["3"]},"1":{"type":"bedplate-key-file","keyslots":["1"]},"2":{"type":"systemd-tpm2","keyslots":["3"]}}}`)
	if err != nil {
		t.Fatal(err)
	}
	slots, tokens := h.slots("systemd-tpm2")
	if diff := cmp.Diff([][]string{{"3"}, {"0", "2"}}, [][]string{slots, tokens}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := h.free(); got != 2 {
		t.Errorf("free slot %d, want 2", got)
	}
}
