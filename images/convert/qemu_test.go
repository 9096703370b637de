package convert

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// testDisk is a disk with data here and there, zeros between it, some of which
// compresses, and an odd number of MiB.
func testDisk(seed byte, size int) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{seed})
	n := rand.New(r)
	for range 24 {
		at, l := n.IntN(size), 1+n.IntN(300<<10)
		run := b[at:min(size, at+l)]
		if n.IntN(3) == 0 {
			for i := range run {
				run[i] = "compressible text, "[i%19]
			}
			continue
		}
		_, _ = r.Read(run) // Never fails.
	}
	copy(b, "this is where a boot sector is")
	b[size-1] = 0x55
	return b
}

// qemuImg makes files by qemu-img, the witness of all formats.
func qemuImg(t testing.TB, args ...string) {
	t.Helper()
	if os.Getenv("BEDPLATE_E2E") == "" {
		t.Skip("SKIPPED: qemu-img is the witness: set BEDPLATE_E2E=1")
	}
	path, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Fatal("qemu-img is missing: apt-get install qemu-utils")
	}
	if out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %v: %v\n%s", args, err, out)
	}
}

// kinds are the formats that qemu-img writes, each in the ways that it can.
var kinds = []struct {
	name   string
	format Format
	args   []string
}{
	{"raw", Raw, []string{"-O", "raw"}},
	{"qcow2", Qcow2, []string{"-O", "qcow2"}},
	{"qcow2 version 2", Qcow2, []string{"-O", "qcow2", "-o", "compat=0.10"}},
	{"qcow2 compressed", Qcow2, []string{"-c", "-O", "qcow2"}},
	{"qcow2 zstd", Qcow2, []string{"-c", "-O", "qcow2", "-o", "compression_type=zstd"}},
	{"qcow2 small clusters", Qcow2, []string{"-O", "qcow2", "-o", "cluster_size=4096"}},
	{"qcow2 large clusters", Qcow2, []string{"-O", "qcow2", "-o", "cluster_size=2M"}},
	{"qcow2 large compressed", Qcow2, []string{"-c", "-O", "qcow2", "-o", "cluster_size=2M"}},
	{"qcow2 subclusters", Qcow2, []string{"-O", "qcow2", "-o", "extended_l2=on,cluster_size=128k"}},
	{"vmdk monolithicSparse", VMDK, []string{"-O", "vmdk", "-o", "subformat=monolithicSparse"}},
	{"vmdk streamOptimized", VMDK, []string{"-O", "vmdk", "-o", "subformat=streamOptimized"}},
	{"vmdk zeroed grains", VMDK, []string{"-O", "vmdk", "-o", "subformat=monolithicSparse,zeroed_grain=on"}},
	{"vhdx dynamic", VHDX, []string{"-O", "vhdx", "-o", "subformat=dynamic"}},
	{"vhdx small blocks", VHDX, []string{"-O", "vhdx", "-o", "subformat=dynamic,block_size=1M"}},
	{"vhdx fixed", VHDX, []string{"-O", "vhdx", "-o", "subformat=fixed"}},
	{"vhd dynamic", VHD, []string{"-O", "vpc", "-o", "subformat=dynamic,force_size=on"}},
	{"vhd fixed", VHD, []string{"-O", "vpc", "-o", "subformat=fixed,force_size=on"}},
	{"vhd by geometry", VHD, []string{"-O", "vpc", "-o", "subformat=dynamic"}},
}

func TestRun_WhatQemuImgWrites(t *testing.T) {
	dir := t.TempDir()
	for n, size := range []int{9 << 20, 5<<20 + 3*512} {
		want := testDisk(byte(n), size)
		source := filepath.Join(dir, "source.raw")
		if err := os.WriteFile(source, want, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, k := range kinds {
			t.Run(fmt.Sprintf("%s, %d bytes", k.name, size), func(t *testing.T) {
				file := filepath.Join(t.TempDir(), "image")
				qemuImg(t, append(append([]string{"convert", "-f", "raw"}, k.args...), source, file)...)
				got, res, err := read(t, content(t, file), Config{})
				if err != nil {
					t.Fatal(err)
				}
				if res.Format != k.format {
					t.Errorf("it was taken for %s", res.Format)
				}
				// A VHD's size may be rounded up to whole cylinders.
				if len(got.b) < len(want) || len(got.b) > len(want)+1<<20 || !bytes.Equal(got.b[:len(want)], want) || len(bytes.Trim(got.b[len(want):], "\x00")) > 0 {
					t.Errorf("the disk of %d bytes differs from the one of %d that was converted", len(got.b), len(want))
				}
			})
		}
	}
}

func TestRun_Compressed(t *testing.T) {
	dir := t.TempDir()
	want := testDisk(9, 3<<20)
	source := filepath.Join(dir, "source.raw")
	if err := os.WriteFile(source, want, 0o600); err != nil {
		t.Fatal(err)
	}
	for tool, kind := range map[string]string{"gzip": "gzip", "xz": "xz", "bzip2": "bzip2", "zstd": "zstd"} {
		for _, k := range kinds {
			if k.name != string(k.format) && k.name != "vmdk streamOptimized" && k.name != "vhdx small blocks" && k.name != "vhd dynamic" {
				continue // How a format's parts are laid out makes no difference to its compression.
			}
			t.Run(k.name+" in "+kind, func(t *testing.T) {
				path, err := exec.LookPath(tool)
				if err != nil {
					t.Skipf("SKIPPED: %s is missing", tool)
				}
				file := filepath.Join(t.TempDir(), "image")
				qemuImg(t, append(append([]string{"convert", "-f", "raw"}, k.args...), source, file)...)
				packed, err := exec.CommandContext(t.Context(), path, "-1", "-c", file).Output()
				if err != nil {
					t.Fatal(err)
				}
				got, res, err := read(t, packed, Config{})
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(k.format)+" "+kind, string(res.Format)+" "+string(res.Compression)); diff != "" {
					t.Errorf("what it was taken for (-want +got):\n%s", diff)
				}
				if !bytes.Equal(got.b[:len(want)], want) {
					t.Error("the disk differs from the one that was converted")
				}
			})
		}
	}
}

func content(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRun_Damaged cuts each format short at three places, and flips bits in its
// tables. A cut that loses a byte of the disk is always an error; a flipped bit is an error or another disk,
// and never a panic or one without end.
func TestRun_Damaged(t *testing.T) {
	dir := t.TempDir()
	source, want := filepath.Join(dir, "source.raw"), testDisk(3, 3<<20)
	if err := os.WriteFile(source, want, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds {
		if k.format == Raw || k.name == "vhd fixed" {
			continue // Cut short it is a raw image; its length is known by who sends it.
		}
		t.Run(k.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "image")
			qemuImg(t, append(append([]string{"convert", "-f", "raw"}, k.args...), source, file)...)
			whole := content(t, file)
			for _, percent := range []int{1, 50, 99} {
				// What is behind the last byte of the disk may be missing: it is filling.
				got, _, err := read(t, whole[:len(whole)*percent/100], Config{})
				if err == nil && (percent < 99 || !bytes.Equal(got.b, want)) {
					t.Errorf("cut to %d %% it was taken", percent)
				}
			}
			r := rand.New(rand.NewPCG(1, 2))
			for range 25 {
				b := bytes.Clone(whole)
				at := r.IntN(min(len(b), 300<<10))
				b[at] ^= 1 << r.IntN(8)
				_, _, _ = read(t, b, Config{MaxDisk: 64 << 20}) // Either may be; read checks what it gives.
			}
		})
	}
}

func TestRun_Lies(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "source.raw")
	if err := os.WriteFile(source, testDisk(4, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	convert := func(name string, args ...string) []byte {
		file := filepath.Join(dir, name)
		qemuImg(t, append(append([]string{"convert", "-f", "raw"}, args...), source, file)...)
		return content(t, file)
	}
	edit := func(b []byte, change func([]byte)) []byte {
		b = bytes.Clone(b)
		change(b)
		return b
	}
	be, le := binary.BigEndian, binary.LittleEndian
	backed := filepath.Join(dir, "backed.qcow2")
	qemuImg(t, "create", "-q", "-f", "qcow2", "-b", source, "-F", "raw", backed)
	qcow := convert("plain.qcow2", "-O", "qcow2")
	vmdk := convert("plain.vmdk", "-O", "vmdk")
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"a backing file":           {content(t, backed), "has a backing file"},
		"qcow2 of 1 EiB":           {edit(qcow, func(b []byte) { be.PutUint64(b[24:], 1<<60) }), "a disk of 1152921504606846976 bytes"},
		"qcow2 with a looped L2":   {edit(qcow, func(b []byte) { l1 := be.Uint64(b[40:]); be.PutUint64(b[l1:], 1<<63|l1) }), ""},
		"qcow2 with an L1 far off": {edit(qcow, func(b []byte) { be.PutUint64(b[40:], 1<<40) }), "the file has"},
		"vmdk of 1 EiB":            {edit(vmdk, func(b []byte) { le.PutUint64(b[12:], 1<<51) }), "a disk of 2251799813685248 sectors"},
		"vmdk with a looped table": {edit(vmdk, func(b []byte) { loopVMDK(b) }), "share the file"},
		"vmdk sent as text":        {edit(vmdk, func(b []byte) { b[75] = '\n' }), "transfer as text"},
		"vmdk's descriptor":        {edit(vmdk, func(b []byte) { copy(b, "# Disk DescriptorFile\nversion=1\n") }), "description of a VMDK in several files"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := read(t, c.file, Config{})
			if err == nil || !bytes.Contains([]byte(err.Error()), []byte(c.want)) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
}

// loopVMDK points a grain of the first table to another's data.
func loopVMDK(b []byte) {
	le := binary.LittleEndian
	gd := le.Uint64(b[56:]) * 512
	gt := uint64(le.Uint32(b[gd:])) * 512
	first := le.Uint32(b[gt:])
	for i := uint64(1); i < 48; i++ {
		if le.Uint32(b[gt+4*i:]) != 0 {
			le.PutUint32(b[gt+4*i:], first)
			return
		}
	}
}
