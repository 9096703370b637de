package efi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrBIOS says that there are no EFI variables: the machine was started by BIOS.
var ErrBIOS = errors.New("this machine was not started by UEFI")

// global is EFI_GLOBAL_VARIABLE, the vendor of the boot manager's variables (§3.3).
const global = "-8be4df61-93ca-11d2-aa0d-00e098032b8c"

// attributes of boot variables: non-volatile, boot services, runtime.
const attributes = 7

// immutable is FS_IMMUTABLE_FL, which efivarfs sets on variables that it
// doesn't know to be safe to delete.
const immutable = 0x10

// variables are the firmware's, in efivarfs.
type variables struct{ dir string }

func openVariables(dir string) (variables, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return variables{}, ErrBIOS
	}
	if err != nil {
		return variables{}, fmt.Errorf("reading EFI variables: %w", err)
	}
	if len(entries) == 0 {
		if _, err := os.Stat(filepath.Join(filepath.Dir(dir), "systab")); err == nil {
			return variables{}, fmt.Errorf("%s is empty: efivarfs isn't mounted", dir)
		}
		return variables{}, fmt.Errorf("%s is empty: efivarfs isn't mounted, or the firmware keeps its variables to itself", dir)
	}
	return variables{dir}, nil
}

func (v variables) path(name string) string { return v.file(name, global) }

func (v variables) file(name, vendor string) string { return filepath.Join(v.dir, name+vendor) }

// read returns a variable's value; fs.ErrNotExist if there is none.
func (v variables) read(name string) ([]byte, error) {
	b, err := os.ReadFile(v.path(name))
	if err != nil {
		return nil, fmt.Errorf("reading EFI variable %s: %w", name, err)
	}
	if len(b) < 4 {
		return nil, fmt.Errorf("reading EFI variable %s: only %d bytes", name, len(b))
	}
	return b[4:], nil
}

// write sets a variable, in the one write that efivarfs wants.
func (v variables) write(name string, value []byte) error {
	b := append(binary.LittleEndian.AppendUint32(nil, attributes), value...)
	if old, err := os.ReadFile(v.path(name)); err == nil && string(old) == string(b) {
		return nil // Flash wears.
	}
	if err := v.unlock(name, global); err != nil {
		return err
	}
	f, err := os.OpenFile(v.path(name), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("writing EFI variable %s: %w", name, explain(err))
	}
	// A write replaces the whole value. The kernel needs no truncating, before
	// 6.14 even took a truncated variable for one that isn't there; what stands
	// in for efivarfs does need it. The value is read back below.
	if _, err = f.Write(b); err == nil {
		_ = f.Truncate(int64(len(b)))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing EFI variable %s: %w", name, explain(err))
	}
	back, err := v.read(name)
	if err != nil {
		return err
	}
	if string(back) != string(value) {
		return fmt.Errorf("writing EFI variable %s: the firmware took it, but gives back something else", name)
	}
	return nil
}

// explain says what to do about the errors that firmware is known for.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("%w: the firmware's memory for variables is full; remove entries in its setup", err)
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: the firmware or kernel protects its variables", err)
	}
	return err
}

func (v variables) remove(name string) error { return v.removeOf(name, global) }

func (v variables) removeOf(name, vendor string) error {
	if err := v.unlock(name, vendor); err != nil {
		return err
	}
	if err := os.Remove(v.file(name, vendor)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing EFI variable %s: %w", name, explain(err))
	}
	return nil
}

// unlock takes the immutable flag off a variable that has it.
func (v variables) unlock(name, vendor string) error {
	f, err := os.Open(v.file(name, vendor))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening EFI variable %s: %w", name, err)
	}
	defer f.Close() // Only asked.
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil || flags&immutable == 0 {
		return nil // A file system without flags has none that are in the way.
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags&^immutable); err != nil {
		return fmt.Errorf("unlocking EFI variable %s: %w", name, err)
	}
	return nil
}

// options returns the boot options by number. One that can't be read is left alone.
func (v variables) options() (map[uint16]Option, error) { return v.optionsOf("Boot") }

// optionsOf returns those of Boot####, Driver#### or SysPrep####.
func (v variables) optionsOf(prefix string) (map[uint16]Option, error) {
	entries, err := os.ReadDir(v.dir)
	if err != nil {
		return nil, fmt.Errorf("reading EFI variables: %w", err)
	}
	out := map[uint16]Option{}
	for _, e := range entries {
		hex, ok := strings.CutPrefix(e.Name(), prefix)
		hex, mine := strings.CutSuffix(hex, global)
		n, err := strconv.ParseUint(hex, 16, 16)
		if !ok || !mine || len(hex) != 4 || err != nil {
			continue
		}
		value, err := v.read(prefix + hex)
		if err != nil {
			return nil, err
		}
		o, err := ParseOption(value)
		if err != nil {
			o = Option{Foreign: value, Label: "unreadable"}
		}
		out[uint16(n)] = o
	}
	return out, nil
}

func (v variables) order() ([]uint16, error) { return v.orderOf("BootOrder") }

func (v variables) orderOf(name string) ([]uint16, error) {
	b, err := v.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []uint16
	for i := 0; i+1 < len(b); i += 2 {
		out = append(out, binary.LittleEndian.Uint16(b[i:]))
	}
	return out, err
}

// name is the variable of an option.
func name(n uint16) string { return fmt.Sprintf("Boot%04X", n) }

// install makes an option known, in place of those with its label or its
// target, and gives it its place in the order. It returns the variable's name.
func (v variables) install(o Option, first, removeOthers bool, say func(string)) (string, error) {
	options, err := v.options()
	if err != nil {
		return "", err
	}
	order, err := v.order()
	if err != nil {
		return "", err
	}
	number, found := uint16(0), false
	var obsolete []uint16
	for _, n := range sortedKeys(options) {
		old := options[n]
		switch {
		case old.Foreign == nil && old.Label == o.Label, old.sameTarget(o):
			if !found {
				number, found = n, true
				continue
			}
			obsolete = append(obsolete, n)
		case removeOthers && old.Foreign == nil:
			obsolete = append(obsolete, n)
		}
	}
	for !found {
		if _, taken := options[number]; !taken {
			break
		}
		if number++; number == 0 {
			return "", errors.New("the firmware has no number left for a boot entry")
		}
	}
	// The entry, then the order, then what is not needed any more: at each moment the machine can boot.
	if err := v.write(name(number), o.Append(nil)); err != nil {
		return "", err
	}
	order = place(order, number, first, obsolete)
	value := []byte{}
	for _, n := range order {
		value = binary.LittleEndian.AppendUint16(value, n)
	}
	if err := v.write("BootOrder", value); err != nil {
		return "", err
	}
	for _, n := range obsolete {
		if err := v.remove(name(n)); err != nil {
			return "", err
		}
		say(fmt.Sprintf("removed %s: %s", name(n), options[n]))
	}
	return name(number), nil
}

// place returns the boot order with one number at its beginning or end, and
// without those that go.
func place(order []uint16, number uint16, first bool, without []uint16) []uint16 {
	var rest []uint16
	for _, n := range order {
		if n != number && !slices.Contains(without, n) && !slices.Contains(rest, n) {
			rest = append(rest, n)
		}
	}
	if first {
		return append([]uint16{number}, rest...)
	}
	return append(rest, number)
}

func sortedKeys(m map[uint16]Option) []uint16 {
	var keys []uint16
	for n := range m {
		keys = append(keys, n)
	}
	slices.Sort(keys)
	return keys
}
