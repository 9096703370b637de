package pxe

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/machine"
)

// guid is option 97 of a machine with the UUID 11223344-5566-7788-99aa-bbccddeeff00.
var guid = []byte{0, 0x44, 0x33, 0x22, 0x11, 0x66, 0x55, 0x88, 0x77, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0x00}

const uuid machine.UUID = "11223344-5566-7788-99aa-bbccddeeff00"

func TestClassify(t *testing.T) {
	for name, tc := range map[string]struct {
		options Options
		want    Client
	}{
		"an installed system is no boot client": {
			Options{60: []byte("anaconda-Linux 6.1.0 x86_64"), 93: nil}, Client{},
		},
		"iPXE in a NIC's ROM gets the script, whatever architecture it has": {
			Options{
				60: []byte("PXEClient:Arch:00000:UNDI:002001"), 77: []byte("iPXE"), 93: {0, 0}, 97: guid,
				175: {0xb1, 5, 1, 0x1a, 0xf4, 0x10, 0, 19, 1, 1, 27, 1, 1},
			},
			Client{Method: Script, Platform: BIOS, Arch: ArchBIOS, HasArch: true, IPXE: true, UUID: uuid},
		},
		"iPXE with a counted user class (RFC 3004) is iPXE": {
			Options{60: []byte("PXEClient"), 77: append([]byte{3, 'L', 'a', 'b', 4}, "iPXE"...), 93: {0, 7}},
			Client{Method: Script, Platform: UEFIAMD64, Arch: ArchUEFIAMD64, HasArch: true, IPXE: true},
		},
		"iPXE without HTTP is given ours": {
			Options{60: []byte("PXEClient:Arch:00000:UNDI:002001"), 77: []byte("iPXE"), 93: {0, 0}, 175: {21, 1, 1}},
			Client{Method: TFTP, Platform: BIOS, HasArch: true, IPXE: true},
		},
		"iPXE whose feature list is cut short is taken to have HTTP": {
			Options{77: []byte("iPXE"), 175: {21, 9, 1}}, Client{Method: Script, IPXE: true},
		},
		"gPXE is firmware, not iPXE": {
			Options{60: []byte("PXEClient:Arch:00000:UNDI:002001"), 77: []byte("gPXE"), 93: {0, 0}},
			Client{Method: TFTP, Platform: BIOS, HasArch: true},
		},
		"UEFI PXE": {
			Options{60: []byte("PXEClient:Arch:00007:UNDI:003000"), 93: {0, 7}},
			Client{Method: TFTP, Platform: UEFIAMD64, Arch: 7, HasArch: true},
		},
		"UEFI PXE of the type that RFC 4578 meant for x86-64": {
			Options{60: []byte("PXEClient:Arch:00009:UNDI:003000"), 93: {0, 9}},
			Client{Method: TFTP, Platform: UEFIAMD64, Arch: 9, HasArch: true},
		},
		"UEFI arm64": {
			Options{60: []byte("PXEClient:Arch:00011:UNDI:003000"), 93: {0, 11}},
			Client{Method: TFTP, Platform: UEFIARM64, Arch: 11, HasArch: true},
		},
		"UEFI HTTP Boot": {
			Options{60: []byte("HTTPClient:Arch:00016:UNDI:003000"), 93: {0, 16}},
			Client{Method: HTTP, Platform: UEFIAMD64, Arch: 16, HasArch: true},
		},
		"UEFI HTTP Boot on arm64": {
			Options{60: []byte("HTTPClient:Arch:00019:UNDI:003000"), 93: {0, 19}},
			Client{Method: HTTP, Platform: UEFIARM64, Arch: 19, HasArch: true},
		},
		"the architecture is in the vendor class when option 93 is missing": {
			Options{60: []byte("PXEClient:Arch:00006:UNDI:003000")},
			Client{Method: TFTP, Platform: UEFI386, Arch: 6, HasArch: true},
		},
		"of several architectures the first known one counts": {
			Options{60: []byte("PXEClient"), 93: {0, 99, 0, 7}},
			Client{Method: TFTP, Platform: UEFIAMD64, Arch: 7, HasArch: true},
		},
		"an architecture nobody knows": {
			Options{60: []byte("PXEClient:Arch:00099:UNDI:003000"), 93: {0, 99}},
			Client{Method: TFTP, Arch: 99, HasArch: true},
		},
		"no architecture at all is not taken for BIOS": {
			Options{60: []byte("PXEClient")}, Client{Method: TFTP},
		},
		"a GUID of zeros, as boards without a number send": {
			Options{97: make([]byte, 17)}, Client{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Classify(tc.options)); diff != "" {
				t.Errorf("Classify (-want +got):\n%s", diff)
			}
		})
	}
}

// files is a table like the one in package ipxe.
func files(c Client, _ machine.Machine) (string, bool) {
	name, ok := map[Platform]string{BIOS: "undionly.kpxe", UEFIAMD64: "snponly.efi", UEFIARM64: "snponly-arm64.efi"}[c.Platform]
	return name, ok
}

func TestClient_Boot(t *testing.T) {
	const base = "http://10.77.0.1:8080"
	none := []byte{176, 1, 1}
	direct := []byte{6, 1, 8, 255}
	for name, tc := range map[string]struct {
		client Client
		role   Role
		want   Boot
		err    error
	}{
		"an installed system boots nothing":            {Client{}, Server, Boot{}, nil},
		"BIOS loads undionly.kpxe":                     {Client{Method: TFTP, Platform: BIOS}, Server, Boot{File: "undionly.kpxe", Class: "PXEClient", Vendor: direct}, nil},
		"BIOS beside another server is told the same":  {Client{Method: TFTP, Platform: BIOS}, Proxy, Boot{File: "undionly.kpxe", Class: "PXEClient", Vendor: direct}, nil},
		"UEFI loads snponly.efi":                       {Client{Method: TFTP, Platform: UEFIAMD64}, Server, Boot{File: "snponly.efi", Class: "PXEClient", Vendor: direct}, nil},
		"UEFI beside another server has no option 43":  {Client{Method: TFTP, Platform: UEFIAMD64}, Proxy, Boot{File: "snponly.efi", Class: "PXEClient"}, nil},
		"UEFI on port 4011 has no option 43":           {Client{Method: TFTP, Platform: UEFIARM64}, BootServer, Boot{File: "snponly-arm64.efi", Class: "PXEClient"}, nil},
		"UEFI HTTP Boot gets a URL and its class back": {Client{Method: HTTP, Platform: UEFIAMD64}, Server, Boot{File: base + "/boot/snponly.efi", Class: "HTTPClient"}, nil},
		"iPXE gets the script":                         {Client{Method: Script, IPXE: true}, Server, Boot{File: base + "/ipxe/boot.ipxe", IPXE: none}, nil},
		"iPXE beside another server gets the class":    {Client{Method: Script, IPXE: true}, Proxy, Boot{File: base + "/ipxe/boot.ipxe", Class: "PXEClient", IPXE: none}, nil},
		"an unknown architecture gets nothing":         {Client{Method: TFTP, Arch: 99, HasArch: true}, Server, Boot{}, ErrNoFile},
		"an architecture without a file gets nothing":  {Client{Method: TFTP, Platform: UEFI386}, Server, Boot{}, ErrNoFile},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tc.client.Boot(tc.role, files, machine.Machine{}, base)
			if diff := cmp.Diff(tc.want, got); diff != "" || !errors.Is(err, tc.err) {
				t.Errorf("Boot: %v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestBootItem(t *testing.T) {
	item, ok := BootItem(Options{43: {0, 71, 4, 0, 1, 0, 0, 255, 71, 9}})
	if !ok {
		t.Fatal("no boot item found")
	}
	if diff := cmp.Diff([]byte{6, 1, 8, 71, 4, 0, 1, 0, 0, 255}, AppendBootItem(discoverNothing, item)); diff != "" {
		t.Errorf("AppendBootItem (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]byte{6, 1, 8, 255}, discoverNothing); diff != "" {
		t.Errorf("the shared option was changed (-want +got):\n%s", diff)
	}
	if _, ok := BootItem(Options{43: {71, 4, 0, 1}}); ok {
		t.Error("found a boot item in an option that is cut short")
	}
}

// FuzzClassify feeds every option that a client controls.
func FuzzClassify(f *testing.F) {
	f.Add([]byte{71, 4, 0, 1, 0, 0, 255}, []byte("PXEClient:Arch:00007:UNDI:003000"), []byte("iPXE"), []byte{0, 7}, guid, []byte{0xb1, 5, 1, 0x1a, 0xf4, 0x10, 0, 19, 1, 1})
	f.Add([]byte{}, []byte("HTTPClient:Arch:00016:UNDI:003000"), []byte{4, 'i', 'P', 'X', 'E'}, []byte{0, 16}, guid[:16], []byte{255})
	f.Add([]byte{71}, []byte(":Arch:99999:"), []byte{0}, []byte{1}, []byte{}, []byte{0, 0, 0})
	f.Fuzz(func(t *testing.T, vendor, class, user, arch, id, encapsulated []byte) {
		o := Options{43: vendor, 60: class, 77: user, 93: arch, 97: id, 175: encapsulated}
		c := Classify(o)
		if c.Method == Script && !c.IPXE {
			t.Error("a script for a client that isn't iPXE")
		}
		if item, ok := BootItem(o); ok && len(item) != 4 {
			t.Errorf("boot item of %d octets", len(item))
		}
		for role := Server; role <= BootServer; role++ {
			b, err := c.Boot(role, files, machine.Machine{}, "http://10.77.0.1:8080")
			if (err == nil) != (b.File != "" || c.Method == None) {
				t.Errorf("%v: file %q, error %v", c, b.File, err)
			}
		}
		_ = c.String()
	})
}
