package entry

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// files makes a volume's content. A value that begins with @ is a file of testdata.
func files(t *testing.T, m map[string]string) fs.FS {
	t.Helper()
	out := fstest.MapFS{}
	for name, content := range m {
		if file, ok := strings.CutPrefix(content, "@"); ok {
			b, err := os.ReadFile(filepath.Join("testdata", file))
			if err != nil {
				t.Fatal(err)
			}
			content = string(b)
		}
		out[name] = &fstest.MapFile{Data: []byte(content)}
	}
	return out
}

// found writes an entry as its kernel, initrds and command line.
func found(e Entry) string {
	out := place(e.Kernel)
	for _, i := range e.Initrds {
		out += " + " + place(i)
	}
	return out + " | " + e.Cmdline
}

func place(f File) string { return string(rune('0'+f.Volume.Number)) + ":" + f.Path }

const grubenv = "# GRUB Environment Block\n"

const rhelEntry = `title Red Hat Enterprise Linux (5.14.0-427.el9.x86_64) 9.4 (Plow)
version 5.14.0-427.el9.x86_64
linux /vmlinuz-5.14.0-427.el9.x86_64
initrd /initramfs-5.14.0-427.el9.x86_64.img $tuned_initrd
options $kernelopts $tuned_params
grub_users $grub_users
grub_class rhel
`

func TestFind(t *testing.T) {
	esp := Volume{Number: 1, UUID: "EEEE-0000", FS: fstest.MapFS{}}
	for _, tt := range []struct {
		name    string
		volumes []Volume
		want    string
	}{
		{
			"Debian",
			[]Volume{esp, {Number: 2, UUID: "aaaa-1111", FS: files(t, map[string]string{"boot/grub/grub.cfg": "@debian.cfg"})}},
			"2:boot/vmlinuz-6.1.0-50-amd64 + 2:boot/initrd.img-6.1.0-50-amd64 | root=UUID=aaaa-1111 ro quiet",
		},
		{
			"Debian, with an older kernel chosen for the next boot",
			[]Volume{{Number: 2, UUID: "aaaa-1111", FS: files(t, map[string]string{
				"boot/grub/grub.cfg": "@debian.cfg",
				"boot/grub/grubenv":  grubenv + "next_entry=gnulinux-advanced-aaaa-1111>gnulinux-6.1.0-9-amd64-advanced-aaaa-1111\n####",
			})}},
			"2:boot/vmlinuz-6.1.0-9-amd64 + 2:boot/initrd.img-6.1.0-9-amd64 | root=UUID=aaaa-1111 ro quiet",
		},
		{
			"Debian, with one of the submenu's places",
			[]Volume{{Number: 2, UUID: "aaaa-1111", FS: files(t, map[string]string{
				"boot/grub/grub.cfg": "@debian.cfg", "boot/grub/grubenv": grubenv + "next_entry=1>1\n",
			})}},
			"2:boot/vmlinuz-6.1.0-9-amd64 + 2:boot/initrd.img-6.1.0-9-amd64 | root=UUID=aaaa-1111 ro quiet",
		},
		{
			"Ubuntu's cloud image: a boot partition of its own, without initramfs at first",
			[]Volume{{Number: 1, UUID: "bbbb-2222", FS: fstest.MapFS{}}, {Number: 3, UUID: "cccc-3333", FS: files(t, map[string]string{"grub/grub.cfg": "@ubuntu.cfg"})}},
			"3:vmlinuz-6.8.0-31-generic | root=PARTUUID=5555-6666 ro console=tty1 console=ttyS0 panic=-1",
		},
		{
			"Ubuntu's cloud image, when that has failed once",
			[]Volume{{Number: 3, UUID: "cccc-3333", FS: files(t, map[string]string{"grub/grub.cfg": "@ubuntu.cfg", "grub/grubenv": grubenv + "initrdfail=1\n"})}},
			"3:vmlinuz-6.8.0-31-generic + 3:initrd.img-6.8.0-31-generic | root=PARTUUID=5555-6666 ro console=tty1 console=ttyS0",
		},
		{
			"RHEL 9: entries of the boot partition, the saved one",
			[]Volume{esp, {Number: 2, UUID: "dddd-4444", FS: files(t, map[string]string{
				"grub2/grub.cfg": "@rhel9.cfg", "grub2/grubenv": grubenv + "saved_entry=ffff-5.14.0-427.el9.x86_64\nboot_success=0\n",
				"loader/entries/ffff-5.14.0-427.el9.x86_64.conf": rhelEntry,
				"loader/entries/ffff-5.14.0-503.el9.x86_64.conf": strings.ReplaceAll(rhelEntry, "427", "503"),
				"loader/entries/ffff-0-rescue.conf":              "title rescue\nlinux /vmlinuz-0-rescue\n",
			})}},
			"2:vmlinuz-5.14.0-427.el9.x86_64 + 2:initramfs-5.14.0-427.el9.x86_64.img | root=/dev/mapper/rhel-root ro crashkernel=1G-4G:192M rd.lvm.lv=rhel/root rhgb quiet",
		},
		{
			"RHEL 9: nothing saved, so the newest; options of the environment",
			[]Volume{{Number: 2, UUID: "dddd-4444", FS: files(t, map[string]string{
				"grub2/grub.cfg": "@rhel9.cfg", "grub2/grubenv": grubenv + "kernelopts=root=UUID=1 ro\ntuned_params=isolcpus=1-3\n",
				"loader/entries/ffff-5.14.0-427.el9.x86_64.conf": rhelEntry,
				"loader/entries/ffff-5.14.0-503.el9.x86_64.conf": strings.ReplaceAll(rhelEntry, "427", "503"),
				"loader/entries/ffff-0-rescue.conf":              "title rescue\nlinux /vmlinuz-0-rescue\n",
			})}},
			"2:vmlinuz-5.14.0-503.el9.x86_64 + 2:initramfs-5.14.0-503.el9.x86_64.img | root=UUID=1 ro isolcpus=1-3",
		},
		{
			"a configuration without a menu, as people write them",
			[]Volume{{Number: 3, UUID: "abc", FS: files(t, map[string]string{"boot/grub/grub.cfg": "set timeout=0\nif serial --unit=0 --speed=115200; then\n  terminal_output console serial\nfi\n" +
				"search --no-floppy --fs-uuid --set=root abc\nlinux /vmlinuz root=UUID=abc ro \"quoted=a b\" quiet\ninitrd /a.img /b.img\nboot\nlinux /never\n"})}},
			`3:vmlinuz + 3:a.img + 3:b.img | root=UUID=abc ro "quoted=a b" quiet`,
		},
		{
			"a configuration on the EFI system partition that leads to the one that counts",
			[]Volume{
				{Number: 1, UUID: "EEEE-0000", FS: files(t, map[string]string{"EFI/fedora/grub.cfg": "search --no-floppy --fs-uuid --set=dev dddd-4444\nset prefix=($dev)/elsewhere\nconfigfile $prefix/grub.cfg\n"})},
				{Number: 2, UUID: "dddd-4444", FS: files(t, map[string]string{"elsewhere/grub.cfg": "menuentry x {\n linux (hd0,gpt2)/k a=b\n}\n"})},
			},
			"2:k | a=b",
		},
		{
			"systemd-boot: the default that loader.conf names",
			[]Volume{{Number: 1, FS: files(t, map[string]string{
				"loader/loader.conf": "timeout 3\ndefault arch-lts*\n", "loader/entries/arch.conf": "title Arch\nlinux /vmlinuz-linux\ninitrd /initramfs-linux.img\noptions root=UUID=9 rw\n",
				"loader/entries/arch-lts.conf": "title Arch LTS\nlinux /vmlinuz-lts\ninitrd /intel-ucode.img\ninitrd /initramfs-lts.img\noptions root=UUID=9\noptions rw\n",
			})}},
			"1:vmlinuz-lts + 1:intel-ucode.img + 1:initramfs-lts.img | root=UUID=9 rw",
		},
		{
			"systemd-boot: the newest whose boots are not used up",
			[]Volume{{Number: 1, FS: files(t, map[string]string{
				"loader/entries/id-6.5+0-3.conf": "version 6.5\nsort-key debian\nlinux /id/6.5/linux\n",
				"loader/entries/id-6.1.conf":     "version 6.1\nsort-key debian\nlinux /id/6.1/linux\n",
				"loader/entries/id-6.4+3.conf":   "version 6.4\nsort-key debian\nlinux /id/6.4/linux\n",
			})}},
			"1:id/6.4/linux | ",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, err := Find(tt.volumes, true)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, found(e)); diff != "" {
				t.Errorf("entry (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFind_Errors(t *testing.T) {
	for want, config := range map[string]string{
		"boots no Linux kernel":             "menuentry nothing {\n true\n}\n",
		"no Linux kernel but `chainloader`": "menuentry Windows {\n chainloader /EFI/Microsoft/Boot/bootmgfw.efi\n}\n",
		"does not come to an end":           "while true; do set a=b; done\n",
		"fi is missing":                     "if true; then linux /k\n",
		"a quotation mark is missing":       "linux '/k\n",
		"there is no device (hd0,gpt9)":     "linux (hd0,gpt9)/k\n",
		"nested too deeply":                 strings.Repeat("if true; then\n", 100),
	} {
		t.Run(want, func(t *testing.T) {
			_, err := Find([]Volume{{Number: 1, FS: files(t, map[string]string{"boot/grub/grub.cfg": config})}}, false)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v", err)
			}
		})
	}
	t.Run("no boot loader at all", func(t *testing.T) {
		if _, err := Find([]Volume{{Number: 1, FS: fstest.MapFS{}}}, false); !errors.Is(err, ErrNone) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a path that leads out of its volume stays in it", func(t *testing.T) {
		e, err := Find([]Volume{{Number: 1, FS: files(t, map[string]string{"boot/grub/grub.cfg": "linux /../../../etc/passwd\n"})}}, false)
		if err != nil || e.Kernel.Path != "etc/passwd" {
			t.Errorf("%q, %v", e.Kernel.Path, err)
		}
	})
}

func TestCompareVersions(t *testing.T) {
	for _, pair := range [][2]string{{"6.1.0-9", "6.1.0-50"}, {"5.14.0-427.el9", "5.14.0-503.el9"}, {"6.9", "6.10"}, {"a", "b"}, {"1", "1.1"}} {
		if CompareVersions(pair[0], pair[1]) >= 0 || CompareVersions(pair[1], pair[0]) <= 0 {
			t.Errorf("%s does not come before %s", pair[0], pair[1])
		}
	}
}

func FuzzFind(f *testing.F) {
	for _, name := range []string{"debian.cfg", "ubuntu.cfg", "rhel9.cfg"} { // as distributions make them
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b), grubenv+"saved_entry=1>2\n", rhelEntry)
	}
	f.Add("configfile /boot/grub/grub.cfg\n", "", "")                        // itself
	f.Add("function a { a; }\na\n", "", "linux")                             // for ever
	f.Add("set a=\"$a$a$a$a\"\nwhile true; do set a=\"$a$a\"; done", "", "") // doubles
	f.Fuzz(func(t *testing.T, config, env, bls string) {
		v := []Volume{{Number: 1, UUID: "aaaa-1111", FS: fstest.MapFS{
			"boot/grub/grub.cfg": {Data: []byte(config)}, "boot/grub/grubenv": {Data: []byte(env)}, "loader/entries/a.conf": {Data: []byte(bls)},
		}}}
		e, err := Find(v, true)
		if err == nil && (!fs.ValidPath(e.Kernel.Path) || strings.Contains(e.Kernel.Path, "..") && !fs.ValidPath(e.Kernel.Path)) {
			t.Errorf("kernel at %q", e.Kernel.Path)
		}
	})
}
