package layout

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// stack is a declaration with every kind of part.
const stack = `{
  "disks": [
    {"name": "a", "hint": "disk.type == \"hdd\"", "wipe": "keep"},
    {"name": "b", "hint": "disk.type == \"hdd\"", "wipe": "keep"},
    {"name": "scratch", "serial": "S1"}],
  "partitions": [
    {"name": "logs", "disk": "root", "size": "2GB"},
    {"name": "a1", "disk": "a", "size": "100MiB"}, {"name": "a2", "disk": "a"},
    {"name": "b1", "disk": "b", "size": "100MiB"}, {"name": "b2", "disk": "b"}],
  "raid": [{"name": "data", "level": "raid1", "devices": ["a2", "b2"]}],
  "encryption": [{"name": "vault", "device": "data", "tpm": "required"}],
  "volume_groups": [{"name": "vg", "devices": ["vault"]}],
  "logical_volumes": [
    {"name": "t1", "volume_group": "vg", "type": "thin", "pool": "pool", "size": "50GB"},
    {"name": "pool", "volume_group": "vg", "type": "thin-pool", "size": "10GB"},
    {"name": "srv", "volume_group": "vg", "size": "rest"}],
  "filesystems": [
    {"device": "vg/srv", "type": "xfs", "path": "/srv"},
    {"device": "vg/t1", "type": "ext4", "path": "/thin"},
    {"device": "scratch", "type": "ext4", "path": "/scratch"},
    {"device": "logs", "type": "ext4", "path": "/var/log"}]
}`

func parse(t testing.TB, text string) *pb.StorageSpec {
	t.Helper()
	s := &pb.StorageSpec{}
	if err := protojson.Unmarshal([]byte(text), s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRead_Order(t *testing.T) {
	l, problems := Read(parse(t, stack))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	var got []string
	for _, n := range l.Nodes {
		line := n.String() + " [" + strings.Join(n.Disks, " ") + "]"
		if n.Keep {
			line += " kept"
		}
		got = append(got, line)
	}
	want := []string{
		"disk root [root]", "disk a [a] kept", "disk b [b] kept", "disk scratch [scratch]",
		"partition logs [root]", "partition a1 [a] kept", "partition a2 [a] kept", "partition b1 [b] kept", "partition b2 [b] kept",
		"raid data [a b] kept", "encryption vault [a b] kept", "volume group vg [a b] kept",
		"logical volume vg/pool [a b] kept", "logical volume vg/t1 [a b] kept", "logical volume vg/srv [a b] kept",
		"file system on vg/srv [a b] kept", "file system on vg/t1 [a b] kept", "file system on scratch [scratch]", "file system on logs [root]",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if l.DeclaresRoot() {
		t.Error("no file system is mounted at /, but the root is said to be declared")
	}
	if got := len(l.Partitions("a")); got != 2 {
		t.Errorf("disk a has %d partitions, want 2", got)
	}
}

func TestRead_Problems(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*pb.StorageSpec)
		want   string
	}{
		"a device that isn't there": {func(s *pb.StorageSpec) { s.Raid[0].Devices[1] = "b3" },
			`raid[0].devices[1]: there is no device "b3"; there are root, a, b, scratch, logs, a1, a2, b1, b2, data, vault, vg/t1, vg/pool, vg/srv`},
		"a name given twice":   {func(s *pb.StorageSpec) { s.Partitions[1].Name = "scratch" }, `partitions[1].name: "scratch" is given twice: disks[2] has it too`},
		"a name that is taken": {func(s *pb.StorageSpec) { s.Disks[2].Name = "root"; s.Filesystems[2].Device = "a1" }, `disks[2].name: "root" is what the disk of the operating system is called`},
		"a device used twice":  {func(s *pb.StorageSpec) { s.Filesystems[2].Device = "a1"; s.Filesystems[3].Device = "a1" }, `filesystems[3].device: "a1" is used twice: filesystems[2] has it too`},
		"a partitioned disk used whole": {func(s *pb.StorageSpec) { s.Filesystems[2].Device = "a" },
			`filesystems[2].device: "a" is used twice: partitions[1] has it too`},
		"a volume group as a device":  {func(s *pb.StorageSpec) { s.Filesystems[0].Device = "vg" }, `filesystems[0].device: "vg" is a volume group, not a device`},
		"a file system on a pool":     {func(s *pb.StorageSpec) { s.Filesystems[0].Device = "vg/pool" }, `filesystems[0].device: "vg/pool" is a thin pool: name a volume in it`},
		"a cycle":                     {func(s *pb.StorageSpec) { s.Encryption[0].Device = "vg/srv"; s.Filesystems = s.Filesystems[1:] }, `encryption[0]: lies on itself: vault on vg/srv on vg on vault`},
		"disks of different policies": {func(s *pb.StorageSpec) { s.Disks[1].Wipe = "fresh" }, "raid[0].devices: some of its disks are kept on reinstall and others are not (a2, b2): give them the same `wipe`"},
		"members on one disk":         {func(s *pb.StorageSpec) { s.Raid[0].Devices[1] = "a1" }, "raid[0].devices: a2 and a1 are on the same disk, a: its loss would be that of both"},
		"too few members":             {func(s *pb.StorageSpec) { s.Raid[0].Level = "raid5" }, "raid[0].devices: raid5 needs at least 3 devices, 2 are given"},
		"the image's disk as a whole": {func(s *pb.StorageSpec) {
			s.Filesystems[2].Device = "root"
			s.Partitions = s.Partitions[1:]
			s.Filesystems = s.Filesystems[:3]
		},
			"filesystems[2]: the disk `root` holds the image: make a partition with disk: root in the space behind it"},
		"a disk found in two ways":      {func(s *pb.StorageSpec) { s.Disks[2].Wwn = "x" }, "disks[2]: give one of hint, serial, wwn and path"},
		"a size that is none":           {func(s *pb.StorageSpec) { s.Partitions[0].Size = "2 apples" }, `partitions[0].size: "2 apples": not a size such as 20GB, 512MiB or rest`},
		"a partition after the rest":    {func(s *pb.StorageSpec) { s.Partitions[1].Size = "" }, "partitions[1].size: only the last partition of a disk may take the rest: partitions[2] comes after it"},
		"two volumes that take it all":  {func(s *pb.StorageSpec) { s.LogicalVolumes[1].Size = "" }, "logical_volumes[2].size: logical_volumes[1] takes the rest of volume group vg already"},
		"a thin volume without a pool":  {func(s *pb.StorageSpec) { s.LogicalVolumes[0].Pool = "" }, "logical_volumes[0].pool: missing: a thin volume is in a thin pool"},
		"a thin volume in no pool":      {func(s *pb.StorageSpec) { s.LogicalVolumes[0].Pool = "srv" }, `logical_volumes[0].pool: "srv" is no logical volume of type thin-pool`},
		"encryption that nothing opens": {func(s *pb.StorageSpec) { s.Encryption[0].Tpm = "auto" }, "encryption[0]: nothing would open it on a machine without a TPM: give key_secret, recovery_recipients or key_file, or tpm: required"},
		"a recipient that is no key":    {func(s *pb.StorageSpec) { s.Encryption[0].RecoveryRecipients = []string{"me"} }, "encryption[0].recovery_recipients[0]: not a public key such as age1… or ssh-ed25519 …"},
		"a label that is too long":      {func(s *pb.StorageSpec) { s.Filesystems[0].Label = "thirteenchars" }, `filesystems[0].label: "thirteenchars" is longer than the 12 bytes that xfs has for it`},
		"a path that isn't one":         {func(s *pb.StorageSpec) { s.Filesystems[0].Path = "/srv/../etc" }, `filesystems[0].path: "/srv/../etc": not a path such as /srv/data`},
		"a path given twice":            {func(s *pb.StorageSpec) { s.Filesystems[1].Path = "/srv" }, `filesystems[1].path: "/srv" is given twice: filesystems[0].path has it too`},
		"an option that breaks fstab":   {func(s *pb.StorageSpec) { s.Filesystems[0].Options = []string{"noatime 0 0\n/x"} }, `filesystems[0].options[0]: "noatime 0 0\n/x": not a mount option such as noatime`},
	} {
		t.Run(name, func(t *testing.T) {
			s := proto.Clone(parse(t, stack)).(*pb.StorageSpec)
			c.change(s)
			l, problems := Read(s)
			if l != nil || len(problems) != 1 {
				t.Fatalf("problems are %v, want one", problems)
			}
			if got := problems[0].Path + ": " + problems[0].Message; got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]Size{
		"": {Rest: true}, "rest": {Rest: true}, "50%": {Percent: 50}, "20GB": {Bytes: 20e9}, "1.5 GiB": {Bytes: 3 << 29}, "4096": {Bytes: 4096},
	} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %+v, %v; want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"0", "-1GB", "0%", "101%", "1.5%", "NaN", "1e30TB", "GB", "20G"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("ParseSize(%q) = %+v, want an error", in, got)
		}
	}
}

// FuzzRead wants of every declaration that is taken that its parts come after
// what they lie on, and that each part has a disk beneath it.
func FuzzRead(f *testing.F) {
	f.Add([]byte(stack))
	f.Add([]byte(`{"raid":[{"name":"a","devices":["b"]},{"name":"b","devices":["a"]}]}`))                                          // a cycle
	f.Add([]byte(`{"filesystems":[{"device":"root","path":"/"}],"encryption":[{"name":"root/","device":"root"}]}`))                // a whole root disk
	f.Add([]byte(`{"logical_volumes":[{"name":"p","type":"thin","pool":"p","volume_group":"v"}],"volume_groups":[{"name":"v"}]}`)) // a pool in itself
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &pb.StorageSpec{}
		if protojson.Unmarshal(b, s) != nil {
			return
		}
		l, problems := Read(s)
		if len(problems) > 0 {
			return
		}
		seen := map[*Node]bool{}
		for _, n := range l.Nodes {
			for _, on := range n.On {
				if !seen[on] {
					t.Fatalf("%s comes before %s", n, on)
				}
			}
			if len(n.Disks) == 0 {
				t.Fatalf("%s lies on no disk", n)
			}
			seen[n] = true
		}
	})
}
