package erase

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/agent/disk/erase/nvme"
)

const mib = 1 << 20

func now() time.Time { return time.Now() }

// bubble runs a test in time of its own.
func bubble(t *testing.T, name string, f func(t *testing.T, r *rack)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { f(t, newRack(t)) })
	})
}

// outcome is what a test wants of one disk.
type outcome struct {
	Method, Level, Then string
	OK                  bool
	Tried               []string
	Verified            string
}

func outcomeOf(m map[string]any) outcome {
	o := outcome{OK: m["ok"].(bool), Method: m["method"].(string), Level: m["level"].(string), Then: m["then"].(string)}
	for _, v := range m["tried"].([]any) {
		o.Tried = append(o.Tried, v.(map[string]any)["method"].(string))
	}
	v := m["verification"].(map[string]any)
	o.Verified = strings.TrimSpace(fmt.Sprint(v["kind"], " ", v["result"]))
	return o
}

func want(t *testing.T, m map[string]any, o outcome) {
	t.Helper()
	if m == nil {
		t.Fatal("there is no result")
	}
	if diff := cmp.Diff(o, outcomeOf(m)); diff != "" {
		t.Errorf("outcome (-want +got):\n%s%v\n%v", diff, m["error"], m["tried"])
	}
}

func TestErase_NVMe(t *testing.T) {
	bubble(t, "the strongest sanitize operation is taken, once for all namespaces", func(t *testing.T, r *rack) {
		n := newNVMe(filled(8*mib), filled(4*mib))
		r.nvme(n)
		out, res, err := r.erase(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"nvme0n1", "nvme0n2"} {
			want(t, out[name], outcome{Method: "nvme-sanitize-crypto", Level: Purge, OK: true, Verified: "sample zeros"})
		}
		if diff := cmp.Diff([]string{"sanitize crypto erase"}, n.commands); diff != "" {
			t.Error(diff)
		}
		first := out["nvme0n1"]
		if first["serial"] != "S1" || first["model"] != "Fake NVMe" || first["firmware"] != "1.0" || first["log_page"] != "ffff01000c000000"+strings.Repeat("0", 48) {
			t.Errorf("result = %v", first)
		}
		if res.Outputs["level"] != Purge || res.Outputs["bytes"] != int64(12*mib) || first["duration_seconds"].(float64) < 6 {
			t.Errorf("outputs = %v", res.Outputs)
		}
		if r.logs.done != r.logs.total || r.logs.total != 12*mib || !slices.ContainsFunc(r.logs.messages, func(m string) bool { return strings.Contains(m, "nvme0n1 nvme-sanitize-crypto 4") }) {
			t.Errorf("progress %d of %d: %q", r.logs.done, r.logs.total, r.logs.messages)
		}
	})
	bubble(t, "a failed operation is left behind and the next is tried", func(t *testing.T, r *rack) {
		n := newNVMe(filled(8 * mib))
		n.fails = map[nvme.Action]bool{nvme.CryptoErase: true, nvme.BlockErase: true, nvme.Overwrite: true}
		r.nvme(n)
		out, _, err := r.erase(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want(t, out["nvme0n1"], outcome{Method: "nvme-format-crypto", Level: Clear, OK: true, Verified: "sample zeros", Tried: []string{"nvme-sanitize-crypto", "nvme-sanitize-block", "nvme-sanitize-overwrite"}})
		if got := strings.Join(n.commands, ", "); got != "sanitize crypto erase, sanitize exit failure mode, sanitize block erase, sanitize exit failure mode, sanitize overwrite, sanitize exit failure mode, format 1 ses 2" {
			t.Errorf("commands: %s", got)
		}
	})
	bubble(t, "a controller without sanitize and crypto erase is formatted", func(t *testing.T, r *rack) {
		n := newNVMe(filled(8*mib), filled(4*mib))
		n.sanicap, n.fna = 0, 0
		r.nvme(n)
		out, res, err := r.erase(t.Context(), map[string]any{"verify": "full"})
		if err != nil {
			t.Fatal(err)
		}
		want(t, out["nvme0n2"], outcome{Method: "nvme-format-user", Level: Clear, OK: true, Verified: "full zeros"})
		if got := strings.Join(n.commands, ", "); got != "format 1 ses 1, format 2 ses 1" || res.Outputs["level"] != Clear {
			t.Errorf("commands: %s, %v", got, res.Outputs["level"])
		}
		if out["nvme0n2"]["not_offered"] != "nvme-sanitize-crypto nvme-sanitize-block nvme-sanitize-overwrite nvme-format-crypto" {
			t.Errorf("not offered: %v", out["nvme0n2"]["not_offered"])
		}
	})
	bubble(t, "a disk that says it has sanitized and has not is found out", func(t *testing.T, r *rack) {
		n := newNVMe(filled(8 * mib))
		n.lies, n.oacs = true, 0
		r.nvme(n)
		out, _, err := r.erase(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want(t, out["nvme0n1"], outcome{Method: "discard", Level: Clear, OK: true, Verified: "full zeros", Tried: []string{"nvme-sanitize-crypto", "nvme-sanitize-block", "nvme-sanitize-overwrite"}})
		reason := out["nvme0n1"]["tried"].([]any)[0].(map[string]any)["error"].(string)
		if !strings.Contains(reason, "still holds what it held before at offset") {
			t.Errorf("reason = %s", reason)
		}
	})
	bubble(t, "noise after a crypto erase has changed, and holds no signature", func(t *testing.T, r *rack) {
		n := newNVMe(filled(8 * mib))
		n.noise = true
		r.nvme(n)
		out, _, err := r.erase(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want(t, out["nvme0n1"], outcome{Method: "nvme-sanitize-crypto", Level: Purge, OK: true, Verified: "sample changed"})
		c := n.namespaces[1]
		if c.data[0] != 0 || c.data[len(c.data)-1] != 0 || c.rereads != 1 || !c.closed {
			t.Errorf("ends %x %x, %d times read anew", c.data[0], c.data[len(c.data)-1], c.rereads)
		}
	})
	bubble(t, "noise is overwritten when every block is to be verified, and the purge still counts", func(t *testing.T, r *rack) {
		n := newNVMe(filled(8 * mib))
		n.noise = true
		r.nvme(n)
		out, _, err := r.erase(t.Context(), map[string]any{"verify": "full"})
		if err != nil {
			t.Fatal(err)
		}
		want(t, out["nvme0n1"], outcome{Method: "nvme-sanitize-crypto", Level: Purge, Then: "overwrite", OK: true, Verified: "full zeros"})
		if !n.namespaces[1].only(0) {
			t.Error("content is left")
		}
	})
	bubble(t, "an operation that another boot began is followed to its end", func(t *testing.T, r *rack) {
		n := newNVMe(filled(8 * mib))
		n.state, n.scdw10, n.left = nvme.InProgress, uint32(nvme.BlockErase), 3
		r.nvme(n)
		out, _, err := r.erase(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want(t, out["nvme0n1"], outcome{Method: "nvme-sanitize-block", Level: Purge, OK: true, Verified: "sample zeros"})
		if len(n.commands) != 0 || out["nvme0n1"]["resumed"] != true {
			t.Errorf("commands %v, result %v", n.commands, out["nvme0n1"])
		}
	})
	bubble(t, "one whose noise can't be compared with what was before is overwritten", func(t *testing.T, r *rack) {
		n := newNVMe(filled(8 * mib))
		n.state, n.scdw10, n.left, n.noise = nvme.InProgress, uint32(nvme.CryptoErase), 3, true
		r.nvme(n)
		out, _, err := r.erase(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want(t, out["nvme0n1"], outcome{Method: "nvme-sanitize-crypto", Level: Purge, Then: "overwrite", OK: true, Verified: "sample zeros"})
	})
	bubble(t, "a namespace that isn't named is not erased along", func(t *testing.T, r *rack) {
		n := newNVMe(filled(8*mib), filled(4*mib))
		n.fna |= 2 // Erasing formats reach every namespace.
		r.nvme(n)
		s := r.service()
		// Not by name: /dev/nvme0n1 isn't on this machine.
		run := newRun(s, wish{verify: verifySample, samples: 16, pattern: fillZeros, failHidden: true}, r.logs)
		run.group(r.disks[:1], r.disks)
		run.work(t.Context())
		res, err := run.result(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		first := res.Outputs["results"].([]any)[0].(map[string]any)
		want(t, first, outcome{Method: "discard", Level: Clear, OK: true, Verified: "full zeros", Tried: []string{"nvme-sanitize-crypto", "nvme-sanitize-block", "nvme-sanitize-overwrite", "nvme-format-crypto", "nvme-format-user"}})
		if n.namespaces[2].data[5000] == 0 || len(n.commands) != 0 {
			t.Error("the other namespace was erased")
		}
	})
	bubble(t, "a namespace that is in use keeps its subsystem from being sanitized", func(t *testing.T, r *rack) {
		n := newNVMe(filled(8*mib), filled(4*mib))
		r.nvme(n)
		r.busy["/dev/nvme0n2"] = true
		out, _, err := r.erase(t.Context(), nil)
		if err == nil || !strings.Contains(err.Error(), "1 of 2 disks not erased: nvme0n2 (serial-nvme0n2): device or resource busy") {
			t.Errorf("error = %v", err)
		}
		want(t, out["nvme0n1"], outcome{Method: "nvme-format-crypto", Level: Clear, OK: true, Verified: "sample zeros", Tried: []string{"nvme-sanitize-crypto", "nvme-sanitize-block", "nvme-sanitize-overwrite"}})
		want(t, out["nvme0n2"], outcome{})
		if n.namespaces[2].data[5000] == 0 {
			t.Error("the namespace in use was erased")
		}
	})
	bubble(t, "namespaces that aren't attached need a method that reaches them", func(t *testing.T, r *rack) {
		n := newNVMe(filled(8 * mib))
		n.sanicap, n.oacs, n.unattached = 0, 1<<1|1<<3, []uint32{5}
		r.nvme(n)
		out, _, err := r.erase(t.Context(), nil)
		if err == nil || !strings.Contains(err.Error(), "it doesn't reach what the disk hides (namespaces [5] are allocated and not attached)") {
			t.Errorf("error = %v", err)
		}
		if out["nvme0n1"]["ok"] != false || out["nvme0n1"]["hidden"] == "" {
			t.Errorf("result = %v", out["nvme0n1"])
		}
		out, _, err = r.erase(t.Context(), map[string]any{"hidden_areas": "report"})
		if err != nil || out["nvme0n1"]["hidden"] != "namespaces [5] are allocated and not attached" {
			t.Errorf("reported: %v, %v", err, out["nvme0n1"])
		}
	})
	bubble(t, "a disk over the network is only written", func(t *testing.T, r *rack) {
		n := newNVMe(filled(8 * mib))
		r.nvme(n)
		r.facts["/dev/nvme0n1"] = Facts{Subsystem: "nqn.fake", Namespace: 1, Transport: "tcp"}
		out, _, err := r.erase(t.Context(), nil)
		if err != nil || out["nvme0n1"]["method"] != "discard" || len(n.commands) != 0 {
			t.Errorf("%v, %v, %v", err, out["nvme0n1"], n.commands)
		}
	})
	bubble(t, "a disk that doesn't say how it gets on for a while is waited for", func(t *testing.T, r *rack) {
		n := newNVMe(filled(8 * mib))
		r.nvme(n)
		n.logErrors = 5
		out, _, err := r.erase(t.Context(), nil)
		if err != nil || out["nvme0n1"]["method"] != "nvme-sanitize-crypto" {
			t.Errorf("%v, %v", err, out["nvme0n1"])
		}
	})
	bubble(t, "a read-only disk erases itself", func(t *testing.T, r *rack) {
		n := newNVMe(filled(8 * mib))
		r.nvme(n)
		r.disks[0].ReadOnly = true
		out, _, err := r.erase(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want(t, out["nvme0n1"], outcome{Method: "nvme-sanitize-crypto", Level: Purge, OK: true, Verified: "sample zeros"})
	})
}

func TestErase_ATA(t *testing.T) {
	bubble(t, "sanitize comes first", func(t *testing.T, r *rack) {
		a := &fakeATA{c: filled(8 * mib), word59: 1<<12 | 1<<13 | 1<<14 | 1<<15, security: true, enhance: true}
		r.add("sda", "sata", a.c, a)
		out, _, err := r.erase(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want(t, out["sda"], outcome{Method: "ata-sanitize-crypto", Level: Purge, OK: true, Verified: "sample zeros"})
		if out["sda"]["serial"] != "ATA1" || out["sda"]["model"] != "Fake ATA" || out["sda"]["firmware"] != "F1" {
			t.Errorf("result = %v", out["sda"])
		}
	})
	bubble(t, "a failed sanitize is left behind, and security erase takes over", func(t *testing.T, r *rack) {
		a := &fakeATA{c: filled(8 * mib), word59: 1<<12 | 1<<15, security: true, enhance: true, sanitizeFails: true}
		r.add("sda", "sata", a.c, a)
		out, _, err := r.erase(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want(t, out["sda"], outcome{Method: "ata-erase-enhanced", Level: Purge, OK: true, Verified: "sample zeros", Tried: []string{"ata-sanitize-block"}})
		if a.enabled || a.locked || a.failed {
			t.Error("the disk is left with a password or in failure mode")
		}
	})
	bubble(t, "enhanced erase of flash is no purge", func(t *testing.T, r *rack) {
		a := &fakeATA{c: filled(8 * mib), security: true, enhance: true}
		r.add("sda", "sata", a.c, a).Rotational = false
		out, _, err := r.erase(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want(t, out["sda"], outcome{Method: "ata-erase-enhanced", Level: Clear, OK: true, Verified: "sample zeros"})
	})
	bubble(t, "a frozen disk is written, and the reason is on record", func(t *testing.T, r *rack) {
		a := &fakeATA{c: filled(8 * mib), security: true, frozen: true}
		a.c.discard = "none"
		r.add("sda", "sata", a.c, a)
		out, _, err := r.erase(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want(t, out["sda"], outcome{Method: "overwrite", Level: Clear, OK: true, Verified: "sample zeros", Tried: []string{"ata-erase"}})
		if reason := out["sda"]["tried"].([]any)[0].(map[string]any)["error"].(string); !strings.Contains(reason, "frozen the Security feature set") {
			t.Errorf("reason = %s", reason)
		}
		if !strings.HasSuffix(out["sda"]["not_offered"].(string), "ata-erase-enhanced secure-discard discard") {
			t.Errorf("not offered = %s", out["sda"]["not_offered"])
		}
	})
	bubble(t, "a refused erase leaves no password behind", func(t *testing.T, r *rack) {
		a := &fakeATA{c: filled(8 * mib), security: true, eraseFails: true}
		r.add("sda", "sata", a.c, a)
		out, _, err := r.erase(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want(t, out["sda"], outcome{Method: "discard", Level: Clear, OK: true, Verified: "full zeros", Tried: []string{"ata-erase"}})
		if a.enabled || a.locked {
			t.Error("the disk is left with a password")
		}
	})
	bubble(t, "a disk that lost power while it erased is opened and erased", func(t *testing.T, r *rack) {
		a := &fakeATA{c: filled(8 * mib), security: true, enhance: true}
		r.add("sda", "sata", a.c, a)
		ctx, cancel := context.WithCancelCause(t.Context())
		a.powerLoss = func() { cancel(errors.New("the power went")) }
		a.c.broken = func() bool { return a.locked }
		out, _, err := r.erase(ctx, nil)
		if err == nil || !a.locked || !strings.Contains(out["sda"]["error"].(string), `locked with the password "bedplate-disk-erase"`) {
			t.Errorf("%v, locked %v, %v", err, a.locked, out["sda"])
		}
		a.powerLoss = nil
		out, _, err = r.erase(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want(t, out["sda"], outcome{Method: "ata-erase-enhanced", Level: Purge, OK: true, Verified: "sample zeros"})
		if a.enabled || a.locked {
			t.Error("the disk is left locked")
		}
	})
	bubble(t, "a disk with somebody else's password fails after one guess", func(t *testing.T, r *rack) {
		a := &fakeATA{c: filled(8 * mib), security: true, enabled: true, locked: true, password: "theirs"}
		a.c.broken = func() bool { return a.locked }
		r.add("sda", "sata", a.c, a)
		out, _, err := r.erase(t.Context(), nil)
		if err == nil || !strings.Contains(err.Error(), "the disk has a password, and it isn't ours") || out["sda"]["ok"] != false {
			t.Errorf("%v, %v", err, out["sda"])
		}
		if a.tries > 1 {
			t.Errorf("%d guesses", a.tries)
		}
	})
	for _, c := range []struct {
		name         string
		native, made uint64
		want         string
	}{
		{"a Host Protected Area", 8*mib/512 + 100, 0, "100 sectors are hidden by Host Protected Area"},
		{"a Device Configuration Overlay", 0, 8*mib/512 + 7, "7 sectors are hidden by Device Configuration Overlay"},
	} {
		bubble(t, c.name+" fails what doesn't reach it", func(t *testing.T, r *rack) {
			a := &fakeATA{c: filled(8 * mib), native: c.native, made: c.made}
			r.add("sda", "sata", a.c, a)
			_, _, err := r.erase(t.Context(), nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error = %v", err)
			}
			a.security = true
			out, _, err := r.erase(t.Context(), nil)
			if err != nil || out["sda"]["method"] != "ata-erase" || out["sda"]["hidden"] != c.want {
				t.Errorf("with security erase: %v, %v", err, out["sda"])
			}
		})
	}
	bubble(t, "a controller that swallows answers can't say that nothing is hidden", func(t *testing.T, r *rack) {
		a := &fakeATA{c: filled(8 * mib), native: 8 * mib / 512, noRegisters: true, word59: 1<<12 | 1<<15}
		r.add("sda", "sata", a.c, a)
		_, _, err := r.erase(t.Context(), nil)
		if err == nil || !strings.Contains(err.Error(), "the controller does not hand on the disk's answer") {
			t.Errorf("error = %v", err)
		}
	})
}

func TestErase_SCSI(t *testing.T) {
	bubble(t, "sanitize, then the next when one fails", func(t *testing.T, r *rack) {
		s := &fakeSCSI{c: filled(8 * mib), offers: map[byte]bool{1: true, 2: true, 3: true}, fails: map[byte]bool{3: true}}
		r.add("sda", "sas", s.c, s)
		out, _, err := r.erase(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want(t, out["sda"], outcome{Method: "scsi-sanitize-block", Level: Purge, OK: true, Verified: "sample ones", Tried: []string{"scsi-sanitize-crypto"}})
	})
	bubble(t, "overwrite sends its pattern", func(t *testing.T, r *rack) {
		s := &fakeSCSI{c: filled(8 * mib), offers: map[byte]bool{1: true}}
		r.add("sda", "sas", s.c, s)
		out, _, err := r.erase(t.Context(), nil)
		if err != nil || out["sda"]["method"] != "scsi-sanitize-overwrite" {
			t.Errorf("%v, %v", err, out["sda"])
		}
	})
	bubble(t, "a disk that doesn't know SANITIZE is discarded", func(t *testing.T, r *rack) {
		s := &fakeSCSI{c: filled(8 * mib)}
		r.add("sda", "scsi", s.c, s)
		out, _, err := r.erase(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want(t, out["sda"], outcome{Method: "discard", Level: Clear, OK: true, Verified: "full zeros"})
	})
	bubble(t, "an operation that another boot began is waited for", func(t *testing.T, r *rack) {
		s := &fakeSCSI{c: filled(8 * mib), offers: map[byte]bool{2: true}, running: 2, left: 3}
		s.c.broken = func() bool { return s.running != 0 }
		r.add("sda", "sas", s.c, s)
		out, _, err := r.erase(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want(t, out["sda"], outcome{Method: "scsi-sanitize-block", Level: Purge, OK: true, Verified: "sample ones"})
	})
}

func TestErase_Blocks(t *testing.T) {
	for _, c := range []struct {
		name   string
		set    func(*content)
		with   map[string]any
		want   outcome
		holds  int // -1: anything
		reason string
	}{
		{"discard, every block read", func(*content) {}, nil, outcome{Method: "discard", Level: Clear, OK: true, Verified: "full zeros"}, 0, ""},
		{"a discard that was taken as advice", func(c *content) { c.discard = "lies" }, nil,
			outcome{Method: "overwrite", Level: Clear, OK: true, Verified: "sample zeros", Tried: []string{"discard"}}, 0, "doesn't hold the zeros that it should"},
		{"no discard", func(c *content) { c.discard = "none" }, map[string]any{"verify": "full"}, outcome{Method: "overwrite", Level: Clear, OK: true, Verified: "full zeros"}, 0, ""},
		{"secure discard", func(c *content) { c.secure = true }, nil, outcome{Method: "secure-discard", Level: Clear, OK: true, Verified: "sample zeros"}, 0, ""},
		{"ones", func(*content) {}, map[string]any{"method": "overwrite", "pattern": "ones", "verify": "full"}, outcome{Method: "overwrite", Level: Clear, OK: true, Verified: "full ones"}, 0xff, ""},
		{"noise", func(*content) {}, map[string]any{"method": "overwrite", "pattern": "random", "verify": "full"}, outcome{Method: "overwrite", Level: Clear, OK: true, Verified: "full random"}, -1, ""},
		{"noise, sampled", func(*content) {}, map[string]any{"method": "overwrite", "pattern": "random", "samples": int64(50)}, outcome{Method: "overwrite", Level: Clear, OK: true, Verified: "sample random"}, -1, ""},
		{"a place that can't be written", func(c *content) { c.writeError, c.discard = 6*mib, "none" }, nil,
			outcome{Verified: "", Tried: []string{"overwrite"}}, -1, "writing 4194304 bytes at offset 4194304: input/output error"},
		{"a disk that drops writes", func(c *content) { c.drops, c.discard = true, "lies" }, nil, outcome{Tried: []string{"discard", "overwrite"}}, -1, "doesn't hold the zeros"},
		{"a named method that the disk doesn't have", func(*content) {}, map[string]any{"method": "nvme-format-user"}, outcome{Tried: []string{"nvme-format-user"}}, -1, "the disk doesn't offer it"},
		{"a list of methods, in that order", func(*content) {}, map[string]any{"methods": []any{"secure-discard", "overwrite"}}, outcome{Method: "overwrite", Level: Clear, OK: true, Verified: "sample zeros", Tried: []string{"secure-discard"}}, 0, "the disk doesn't offer it"},
	} {
		bubble(t, c.name, func(t *testing.T, r *rack) {
			disk := filled(8 * mib)
			c.set(disk)
			r.add("vda", "virtio", disk, noPort{})
			out, _, err := r.erase(t.Context(), c.with)
			if (err == nil) != c.want.OK {
				t.Errorf("error = %v", err)
			}
			want(t, out["vda"], c.want)
			if c.holds >= 0 && !disk.only(byte(c.holds)) {
				t.Error("content is left")
			}
			if c.reason != "" && !strings.Contains(fmt.Sprint(out["vda"]["tried"]), c.reason) {
				t.Errorf("tried = %v", out["vda"]["tried"])
			}
		})
	}
}

func TestErase_Several(t *testing.T) {
	bubble(t, "one disk that can't be erased fails the step, and the others' results are there", func(t *testing.T, r *rack) {
		good, bad, usb := filled(8*mib), filled(8*mib), filled(mib)
		bad.drops, bad.discard = true, "none"
		r.add("vda", "virtio", good, noPort{})
		r.add("vdb", "virtio", bad, noPort{})
		r.add("sdz", "usb", usb, noPort{}).Removable = true
		out, res, err := r.erase(t.Context(), nil)
		if err == nil || !strings.HasPrefix(err.Error(), "1 of 2 disks not erased: vdb (serial-vdb): no method worked: overwrite: verifying: offset 0 doesn't hold the zeros") {
			t.Errorf("error = %v", err)
		}
		want(t, out["vda"], outcome{Method: "discard", Level: Clear, OK: true, Verified: "full zeros"})
		if out["vdb"]["ok"] != false || out["sdz"] != nil || usb.only(0) || res.Outputs["level"] != "" {
			t.Errorf("outputs = %v", res.Outputs)
		}
		for _, line := range []string{"sdz (serial-sdz) is removable and left as it is", "vda (serial-vda): erased by discard (clear) in 0s, verified (full): zeros", "vdb (serial-vdb): NOT ERASED: "} {
			if !strings.Contains(r.logs.text(), line) {
				t.Errorf("the log has no %q:\n%s", line, r.logs.text())
			}
		}
	})
	bubble(t, "a cancelled step stops, and says what became of each disk", func(t *testing.T, r *rack) {
		n := newNVMe(filled(8 * mib))
		n.polls = 1 << 30
		r.nvme(n)
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("enough"))
		defer cancel()
		out, _, err := r.erase(ctx, nil)
		if err == nil || err.Error() != "enough" || !strings.Contains(out["nvme0n1"]["error"].(string), "stopped: enough; the disk goes on by itself") {
			t.Errorf("%v, %v", err, out["nvme0n1"])
		}
	})
	bubble(t, "two paths to one disk are taken one after another", func(t *testing.T, r *rack) {
		c := filled(8 * mib)
		s := &fakeSCSI{c: c, offers: map[byte]bool{2: true}}
		r.add("sda", "sas", c, s).Wwn = "0x5000"
		r.add("sdb", "sas", c, s).Wwn = "0x5000"
		out, _, err := r.erase(t.Context(), nil)
		if err != nil || out["sda"]["ok"] != true || out["sdb"]["ok"] != true {
			t.Errorf("%v, %v", err, out)
		}
	})
	bubble(t, "a machine without disks has nothing to erase", func(t *testing.T, r *rack) {
		_, res, err := r.erase(t.Context(), nil)
		if err != nil || res.Outputs["disks"] != int64(0) {
			t.Errorf("%v, %v", err, res.Outputs)
		}
	})
	bubble(t, "the same seed reads the same places", func(t *testing.T, r *rack) {
		if diff := cmp.Diff(places(64*mib, 20, 42), places(64*mib, 20, 42)); diff != "" {
			t.Error(diff)
		}
		a, b := places(64*mib, 20, 42), places(64*mib, 20, 43)
		if slices.Equal(a, b) || a[0] != 0 || !slices.Contains(a, 64*mib-sampleSize) || len(a) != 20+2*endsRead/sampleSize {
			t.Errorf("%d places: %v", len(a), a)
		}
		r.add("vda", "virtio", filled(8*mib), noPort{})
		out, _, err := r.erase(t.Context(), map[string]any{"seed": "00000000000000ff", "verify": "sample", "method": "overwrite"})
		if err != nil {
			t.Fatal(err)
		}
		if v := out["vda"]["verification"].(map[string]any); v["seed"] != "00000000000000ff" || v["samples"] != int64(1024+512) {
			t.Errorf("verification = %v", v)
		}
	})
	for name, c := range map[string]struct {
		with map[string]any
		want string
	}{
		"an unknown method": {map[string]any{"method": "shred"}, `"shred" is none of auto, nvme-sanitize-crypto`},
		"a wrong seed":      {map[string]any{"seed": "12"}, "is not 16 hexadecimal digits"},
		"a long seed":       {map[string]any{"seed": strings.Repeat("0", 20)}, "is not 16 hexadecimal digits"},
		"no samples":        {map[string]any{"samples": int64(0)}, "0 is not from 1 to 1048576"},
		"unknown input":     {map[string]any{"passes": int64(3)}, "this action has no such input"},
		"no such disk":      {map[string]any{"disks": []any{"/nonexistent/sda"}}, "disk.select finds the ones that are there"},
	} {
		bubble(t, name, func(t *testing.T, r *rack) {
			if _, _, err := r.erase(t.Context(), c.with); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error = %v, want %q", err, c.want)
			}
		})
	}
}
