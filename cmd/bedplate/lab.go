package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
	"github.com/bedplate/bedplate/lab"
)

// labFlags are the flags of all lab commands.
type labFlags struct {
	name, dir string
}

// folder is where the lab is kept.
func (f labFlags) folder(a *app) (string, error) {
	if f.dir != "" {
		return f.dir, nil
	}
	base := a.getenv("XDG_STATE_HOME")
	if base == "" {
		home := a.getenv("HOME")
		if home == "" {
			return "", hint(usageError{errors.New("no home directory to keep the lab in")}, "give one with --dir")
		}
		base = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(base, "bedplate", "labs", f.name), nil
}

func (f labFlags) remote(a *app) (lab.Remote, error) {
	dir, err := f.folder(a)
	return lab.Remote{Dir: dir}, err
}

func newLabCommand(a *app) *cobra.Command {
	var f labFlags
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Run a rack of virtual machines with real firmware",
		Long: `A lab is a rack of QEMU machines with BIOS or UEFI firmware on a network of its
own: nothing of this machine's network is touched. Servers and clients run in the
lab's network with ` + "`bedplate lab exec`" + `.

It runs as root, or as an ordinary user where the machine allows user namespaces
and /dev/net/tun. KVM is used where it works; else processors are emulated.`,
		Example: `  bedplate lab up --machines 2 --firmware uefi
  bedplate lab exec -- bedplate serve --interface br0
  bedplate lab power m1 on
  bedplate lab console m1
  bedplate lab down`,
	}
	cmd.PersistentFlags().StringVar(&f.name, "lab", "lab", "`name` of the lab")
	cmd.PersistentFlags().StringVar(&f.dir, "dir", "", "`directory` of the lab (default ~/.local/state/bedplate/labs/NAME)")
	cmd.AddCommand(newLabUpCommand(a, &f), newLabDownCommand(a, &f), newLabListCommand(a, &f), newLabPowerCommand(a, &f),
		newLabFaultCommand(a, &f), newLabFleetCommand(a),
		newLabConsoleCommand(a, &f), newLabLogCommand(a, &f), newLabExecCommand(a, &f), newLabHoldCommand(a))
	return cmd
}

// labShape is a rack of equal machines, by flags.
type labShape struct {
	file, firmware, bus, nic, accelerator string
	disk, memory                          string
	boot                                  []string
	machines, cpus                        int
	on                                    bool
}

func (s *labShape) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&s.file, "file", "f", "", "definition of the rack, a YAML `file`; the flags below are then not used")
	flags.IntVar(&s.machines, "machines", 1, "`number` of machines")
	flags.StringVar(&s.firmware, "firmware", "bios", "bios, uefi, uefi-http, uefi-secure or uefi-secure-http")
	flags.IntVar(&s.cpus, "cpus", 1, "processors of each machine")
	flags.StringVar(&s.memory, "memory", "1G", "memory of each machine")
	flags.StringVar(&s.disk, "disk", "4G", "`size` of each machine's disk")
	flags.StringVar(&s.bus, "disk-bus", "virtio", "virtio, nvme, scsi or ahci")
	flags.StringVar(&s.nic, "nic", "virtio", "virtio, e1000, e1000e, igb, vmxnet3 or rtl8139")
	flags.StringSliceVar(&s.boot, "boot", []string{"network", "disk"}, "order of boot devices")
	flags.StringVar(&s.accelerator, "accelerator", "", "auto, kvm or tcg (default auto)")
	flags.BoolVar(&s.on, "power-on", false, "switch the machines on at once")
}

// spec reads the file, or makes a rack of equal machines.
func (s *labShape) spec(name string) (lab.Spec, error) {
	if s.file != "" {
		f, err := os.Open(s.file)
		if err != nil {
			return lab.Spec{}, fmt.Errorf("reading the lab's definition: %w", err)
		}
		defer f.Close() //nolint:errcheck // read only
		spec, err := lab.ReadSpec(f)
		if err == nil && spec.Name == "" {
			spec.Name = name
		}
		return spec, err
	}
	memory, err := lab.ParseSize(s.memory)
	if err != nil {
		return lab.Spec{}, usageError{fmt.Errorf("--memory: %w", err)}
	}
	disk, err := lab.ParseSize(s.disk)
	if err != nil {
		return lab.Spec{}, usageError{fmt.Errorf("--disk: %w", err)}
	}
	m := lab.MachineSpec{
		Firmware: lab.Firmware(s.firmware), CPUs: s.cpus, Memory: memory, NIC: s.nic, Boot: s.boot,
		Disks: []lab.DiskSpec{{Bus: s.bus, Size: disk}},
	}
	if s.on {
		m.Power = "on"
	}
	spec := lab.Spec{Name: name, Accelerator: s.accelerator}
	for range s.machines {
		spec.Machines = append(spec.Machines, m)
	}
	return spec, nil
}

func newLabUpCommand(a *app, f *labFlags) *cobra.Command {
	var shape labShape
	foreground := false
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a lab",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			spec, err := shape.spec(f.name)
			if err != nil {
				return err
			}
			dir, err := f.folder(a)
			if err != nil {
				return err
			}
			if foreground {
				return a.holdLab(cmd.Context(), dir, spec)
			}
			if err := a.startLab(cmd.Context(), dir, spec); err != nil {
				return err
			}
			return a.showLab(cmd.Context(), lab.Remote{Dir: dir}, "table")
		},
	}
	shape.addFlags(cmd)
	cmd.Flags().BoolVar(&foreground, "foreground", false, "stay until interrupted, then take the lab down")
	return cmd
}

func newLabDownCommand(a *app, f *labFlags) *cobra.Command {
	remove := false
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop a lab: its machines lose power; disks and logs stay",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			remote, err := f.remote(a)
			if err != nil {
				return err
			}
			if err := remote.Down(cmd.Context()); err != nil {
				return err
			}
			if !remove {
				return nil
			}
			if _, err := os.Stat(filepath.Join(remote.Dir, "lab.json")); err != nil {
				return hint(fmt.Errorf("%s holds no lab, nothing was deleted", remote.Dir), "`bedplate lab list` shows where a lab is kept")
			}
			return os.RemoveAll(remote.Dir)
		},
	}
	cmd.Flags().BoolVar(&remove, "delete", false, "delete disks and logs as well")
	return cmd
}

func newLabListCommand(a *app, f *labFlags) *cobra.Command {
	output := "table"
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls", "status"},
		Short:   "List a lab's machines",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			remote, err := f.remote(a)
			if err != nil {
				return err
			}
			return a.showLab(cmd.Context(), remote, output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", output, "table or json")
	return cmd
}

// showLab prints a lab's status.
func (a *app) showLab(ctx context.Context, remote lab.Remote, output string) error {
	s, err := remote.Status(ctx)
	if err != nil {
		return err
	}
	switch output {
	case "json":
		e := json.NewEncoder(a.stdout)
		e.SetIndent("", "  ")
		return e.Encode(s)
	case "table":
	default:
		return usageError{fmt.Errorf("output %q: want table or json", output)}
	}
	up := "down"
	if s.Up {
		up = "up"
	}
	fmt.Fprintf(a.stdout, "lab %s is %s; %s\n", s.Name, up, s.Dir)
	for _, n := range s.Networks {
		fmt.Fprintf(a.stdout, "network %s %s\n", n.Name, n.Address)
	}
	t := table.Table{Header: []string{"NAME", "POWER", "FIRMWARE", "CPUS", "MEMORY", "DISKS", "MAC", "SERIAL"}}
	for _, m := range s.Machines {
		power := "off"
		if m.On {
			power = "on"
		}
		var disks []string
		for _, d := range m.Disks {
			disks = append(disks, d.Bus+" "+d.Size.String())
		}
		t.Add(m.Name, power, string(m.Firmware), fmt.Sprint(m.CPUs), m.Memory.String(), strings.Join(disks, ", "), m.MAC, m.Serial)
	}
	if err := t.Write(a.stdout); err != nil {
		return err
	}
	return a.showBMCs(s)
}

// showBMCs prints where the machines' management controllers are, and how to log in.
func (a *app) showBMCs(s lab.Status) error {
	t := table.Table{Header: []string{"NAME", "BMC", "PROTOCOLS", "USERNAME", "PASSWORD", "FAULTS"}}
	rows := 0
	for _, m := range s.Machines {
		if b := m.BMC; b.Address != "" {
			t.Add(m.Name, b.Address, strings.Join(b.Protocols, ", "), b.Username, b.Password, strings.Join(m.Faults, ", "))
			rows++
		}
	}
	if rows == 0 {
		return nil
	}
	fmt.Fprintln(a.stdout)
	return t.Write(a.stdout)
}

func newLabPowerCommand(a *app, f *labFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "power NAME on|off|reset|cycle|shutdown|wipe",
		Short: "Switch a machine on or off, reset it, or make it new",
		Long: `Switch a machine on or off.

on, off     as by the plug
reset       as by the reset button
cycle       off, then on
shutdown    as by the power button: the operating system goes down in order
wipe        of a machine that is off: empty disks and fresh firmware settings`,
		Args: args(cobra.ExactArgs(2)),
		ValidArgsFunction: func(cmd *cobra.Command, words []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(words) == 1 {
				return lab.Actions, cobra.ShellCompDirectiveNoFileComp
			}
			return a.labMachines(cmd.Context(), f), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, words []string) error {
			remote, err := f.remote(a)
			if err != nil {
				return err
			}
			return remote.Power(cmd.Context(), words[0], words[1])
		},
	}
}

// labMachines are the names for completion; none if the lab cannot be asked.
func (a *app) labMachines(ctx context.Context, f *labFlags) []string {
	remote, err := f.remote(a)
	if err != nil {
		return nil
	}
	s, err := remote.Status(ctx)
	if err != nil {
		return nil
	}
	var names []string
	for _, m := range s.Machines {
		names = append(names, m.Name)
	}
	return names
}

func newLabConsoleCommand(a *app, f *labFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "console NAME",
		Short: "Connect to a machine's serial console; Ctrl-] leaves",
		Args:  args(cobra.ExactArgs(1)),
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return a.labMachines(cmd.Context(), f), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, words []string) error {
			remote, err := f.remote(a)
			if err != nil {
				return err
			}
			conn, err := remote.Console(cmd.Context(), words[0])
			if err != nil {
				return err
			}
			return a.console(cmd.Context(), conn, words[0])
		},
	}
}

// consoleEscape is Ctrl-], as in telnet.
const consoleEscape = 0x1d

// console copies between the terminal and a serial port until either ends.
func (a *app) console(ctx context.Context, conn io.ReadWriteCloser, name string) error {
	defer conn.Close() //nolint:errcheck // an interactive session
	if f, ok := a.stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		old, err := term.MakeRaw(int(f.Fd()))
		if err != nil {
			return fmt.Errorf("preparing the terminal: %w", err)
		}
		defer term.Restore(int(f.Fd()), old) //nolint:errcheck // nothing more can be done
		fmt.Fprintf(a.stderr, "connected to %s; Ctrl-] leaves\r\n", name)
	}
	ended := make(chan error, 2)
	go func() { // ends when conn closes
		_, err := io.Copy(a.stdout, conn)
		ended <- err
	}()
	go func() { // ends with the program at the latest
		// The end of what is typed ends nothing: the machine is still to be heard.
		if err := typeTo(conn, a.stdin); !errors.Is(err, io.EOF) {
			ended <- err
		}
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil
	}
}

// typeTo copies keys until Ctrl-]; io.EOF when there are no more.
func typeTo(w io.Writer, r io.Reader) error {
	buf := make([]byte, 256)
	for {
		n, err := r.Read(buf)
		before, _, escaped := strings.Cut(string(buf[:n]), string(rune(consoleEscape)))
		if _, werr := io.WriteString(w, before); werr != nil {
			return werr
		}
		if escaped {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func newLabLogCommand(a *app, f *labFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "log NAME",
		Short: "Print everything that a machine wrote to its serial console",
		Args:  args(cobra.ExactArgs(1)),
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return a.labMachines(cmd.Context(), f), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, words []string) error {
			remote, err := f.remote(a)
			if err != nil {
				return err
			}
			s, err := remote.Status(cmd.Context())
			if err != nil {
				return err
			}
			for _, m := range s.Machines {
				if m.Name == words[0] {
					return a.copyFile(m.SerialLog)
				}
			}
			return hint(fmt.Errorf("no machine %q in lab %s", words[0], s.Name), "`bedplate lab list` shows those there are")
		},
	}
}

func (a *app) copyFile(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return hint(errors.New("the machine has written nothing yet"), "switch it on with `bedplate lab power NAME on`")
	}
	if err != nil {
		return fmt.Errorf("reading the serial log: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	_, err = io.Copy(a.stdout, f)
	return err
}
