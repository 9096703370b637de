package efi

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/bedplate/bedplate/agent/disk/input"
	"github.com/bedplate/bedplate/agent/step"
)

// Vendors of variables that an installed system leaves behind.
const (
	// shim is SHIM_LOCK: requests to enrol machine owner keys, and the lists.
	shim = "-605dab50-e046-4300-abb6-3dd810dd8b23"
	// bootLoader is the Boot Loader Interface of systemd-boot and others.
	bootLoader = "-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
)

// mokRequests are what shim's MokManager would ask a person about at the next
// boot, and settings that a system has asked for.
var mokRequests = []string{"MokNew", "MokAuth", "MokDel", "MokDelAuth", "MokXNew", "MokXAuth", "MokXDel", "MokXDelAuth", "MokSB", "MokDB", "MokPW", "MokTimeout", "MokListTrustedNew"}

// ourLabel is the name of the entry that efi.boot-entry makes.
const ourLabel = "Bedplate"

// reset is the action firmware.reset.
func (s *Service) reset(_ context.Context, req step.Request, rep step.Reporter) (step.Result, error) {
	if err := input.Of(req.With).Err(); err != nil {
		return step.Result{}, err
	}
	out := map[string]any{"firmware": "bios", "removed": []any{}, "order": []any{}, "mok_keys": int64(0)}
	vars, err := openVariables(s.Variables)
	if errors.Is(err, ErrBIOS) {
		rep.Log(step.Agent, "this machine was started by BIOS, which keeps nothing of an installed system: nothing to do")
		return step.Result{Outputs: out}, nil
	}
	out["firmware"] = "uefi"
	if err != nil {
		return step.Result{Outputs: out}, err
	}
	r := resetting{variables: vars, say: func(m string) { rep.Log(step.Agent, m) }}
	err = r.run()
	out["removed"], out["order"], out["mok_keys"] = anys(r.removed), anys(r.order), r.keys
	return step.Result{Outputs: out}, err
}

func anys(words []string) []any {
	out := []any{}
	for _, w := range words {
		out = append(out, w)
	}
	return out
}

// resetting is one firmware.reset.
type resetting struct {
	variables
	say            func(string)
	removed, order []string
	keys           int64
}

func (r *resetting) run() error {
	// BootNext first: whatever goes wrong later, the machine doesn't boot what was.
	if err := r.drop("BootNext"+global, "a one-time boot"); err != nil {
		return err
	}
	// SysPrep and Driver options are started before any boot option (§3.1.3).
	for _, list := range []struct{ prefix, order string }{{"Boot", "BootOrder"}, {"SysPrep", "SysPrepOrder"}, {"Driver", "DriverOrder"}} {
		if err := r.options(list.prefix, list.order); err != nil {
			return err
		}
	}
	if err := r.drop("OsIndications"+global, "what a system asked the firmware for"); err != nil {
		return err
	}
	for _, name := range mokRequests {
		if err := r.drop(name+shim, "a request to shim"); err != nil {
			return err
		}
	}
	if err := r.dropLoaders(); err != nil {
		return err
	}
	r.countKeys()
	return nil
}

// drop removes a variable by its whole name, if it is there.
func (r *resetting) drop(file, what string) error {
	name, vendor := file[:len(file)-len(global)], file[len(file)-len(global):]
	if _, err := os.Stat(r.file(name, vendor)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := r.removeOf(name, vendor); err != nil {
		return err
	}
	r.removed = append(r.removed, name)
	r.say(fmt.Sprintf("removed %s: %s", name, what))
	return nil
}

// options removes the options of one list that lead to a disk's partitions or
// are ours, and makes a new order of the others: network first, as it is the
// server that decides what a free machine boots.
func (r *resetting) options(prefix, orderName string) error {
	options, err := r.optionsOf(prefix)
	if err != nil {
		return err
	}
	order, err := r.orderOf(orderName)
	if err != nil {
		return err
	}
	var network, rest []uint16
	for _, n := range order {
		o, known := options[n]
		switch {
		case !known || o.obsolete() || slices.Contains(network, n) || slices.Contains(rest, n):
		case o.fromNetwork():
			network = append(network, n)
		default:
			rest = append(rest, n)
		}
	}
	kept := append(network, rest...)
	if !slices.Equal(order, kept) {
		if err := r.setOrder(orderName, kept); err != nil {
			return err
		}
	}
	for _, n := range sortedKeys(options) {
		if o := options[n]; o.obsolete() {
			if err := r.drop(fmt.Sprintf("%s%04X%s", prefix, n, global), o.String()); err != nil {
				return err
			}
		}
	}
	if prefix == "Boot" {
		for _, n := range kept {
			r.order = append(r.order, name(n)+" "+options[n].Label)
		}
	}
	return nil
}

// setOrder writes an order; an empty one is no variable at all.
func (r *resetting) setOrder(name string, order []uint16) error {
	if len(order) == 0 {
		return r.drop(name+global, "nothing is left in it")
	}
	var value []byte
	for _, n := range order {
		value = binary.LittleEndian.AppendUint16(value, n)
	}
	return r.write(name, value)
}

// dropLoaders removes what boot loaders have kept; what is theirs of this boot
// alone can't be and needn't.
func (r *resetting) dropLoaders() error {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return fmt.Errorf("reading EFI variables: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), bootLoader) || !r.lasting(e.Name()) {
			continue
		}
		if err := r.drop(e.Name(), "a boot loader's"); err != nil {
			return err
		}
	}
	return nil
}

// lasting reports whether a variable outlives a restart.
func (r *resetting) lasting(file string) bool {
	const nonVolatile = 1
	b, err := os.ReadFile(r.file(file, ""))
	return err == nil && len(b) >= 4 && b[0]&nonVolatile != 0
}

// countKeys counts the machine owner keys. The list itself is out of reach of a
// running system; MokListRT is the copy that shim hands on, with the
// distribution's own key as one of them.
func (r *resetting) countKeys() {
	b, err := os.ReadFile(r.file("MokListRT", shim))
	if err != nil || len(b) < 4 {
		return
	}
	if n := countSignatures(b[4:]); n > 1 {
		r.keys = int64(n - 1)
		r.say(fmt.Sprintf("%d machine owner keys are enrolled; only a person at the console, or Secure Boot's own reset, takes them away", r.keys))
	}
}

// countSignatures counts the entries of signature lists (EFI_SIGNATURE_LIST, §32.4.1).
func countSignatures(b []byte) int {
	const header = 28
	n := 0
	for len(b) >= header {
		le := binary.LittleEndian
		size, head, each := int64(le.Uint32(b[16:])), int64(le.Uint32(b[20:])), int64(le.Uint32(b[24:]))
		if size < header || size > int64(len(b)) || each == 0 || head > size-header {
			break
		}
		n += int((size - header - head) / each)
		b = b[size:]
	}
	return n
}

// obsolete reports whether an option starts something from a disk's partition,
// or is the one that efi.boot-entry makes.
func (o Option) obsolete() bool {
	return o.Foreign == nil || o.Label == ourLabel || o.has(func(kind, sub byte) bool { return kind == typeMedia && (sub == subHardDrive || sub == subFile) })
}

// fromNetwork reports whether an option boots over the network: its path has a
// MAC address (messaging device path, §10.3.4.11).
func (o Option) fromNetwork() bool {
	const typeMessaging, subMAC = 3, 11
	return o.has(func(kind, sub byte) bool { return kind == typeMessaging && sub == subMAC })
}

// has looks for a node among those of a foreign option's path.
func (o Option) has(match func(kind, sub byte) bool) bool {
	b := o.Foreign
	for len(b) >= 4 {
		n := int(binary.LittleEndian.Uint16(b[2:]))
		if n < 4 || n > len(b) || b[0]&0x7f == typeEnd {
			return false
		}
		if match(b[0], b[1]) {
			return true
		}
		b = b[n:]
	}
	return false
}
