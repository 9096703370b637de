package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
	"github.com/bedplate/bedplate/images/agentos"
	"github.com/bedplate/bedplate/images/debian"
	"github.com/bedplate/bedplate/images/iso"
)

func newAgentOSCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "agentos",
		Short: "Build the in-memory system that machines boot into",
	}
	cmd.AddCommand(newAgentOSBuildCommand(a))
	return cmd
}

func newAgentOSBuildCommand(a *app) *cobra.Command {
	var c agentos.Config
	noMedium := false
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Build kernel and initramfs from the distribution's kernel package",
		Long: `Build the kernel and the initramfs that machines boot from the network: the
distribution's signed kernel as it is, the drivers of real servers, and the agent;
and from them the boot medium for machines in networks without DHCP.
Nothing is built again when nothing has changed. Root is not needed.`,
		Example: `  bedplate agentos build --out build/agentos
  bedplate agentos build --out build/agentos --module nvme-rdma --firmware /lib/firmware`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			start := a.now()
			var err error
			if c.Epoch, err = a.sourceDate(); err != nil {
				return err
			}
			if c.Agent == "" {
				if c.Agent, err = agentBesideSelf(); err != nil {
					return err
				}
			}
			screen := a.screen(a.stderr)
			c.Progress = buildProgress(screen)
			m, err := agentos.Build(cmd.Context(), c)
			var medium iso.Manifest
			if err == nil && !noMedium {
				medium, err = iso.Build(cmd.Context(), iso.Config{Dir: c.Out, Epoch: c.Epoch, Force: c.Force, Progress: c.Progress})
			}
			if cerr := screen.Close(); err == nil {
				err = cerr
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "%s %s, kernel %s, %d modules\n", table.Bytes(m.Kernel.Size), filepath.Join(c.Out, m.Kernel.Name), m.Release, len(m.Modules))
			fmt.Fprintf(a.stdout, "%s %s, %s unpacked\n", table.Bytes(m.Initramfs.Size), filepath.Join(c.Out, m.Initramfs.Name), table.Bytes(m.Unpacked))
			if !noMedium {
				fmt.Fprintf(a.stdout, "%s %s, for CD drives and USB sticks\n", table.Bytes(medium.Image.Size), filepath.Join(c.Out, medium.Image.Name))
			}
			fmt.Fprintf(a.stdout, "%s to send to a machine, %s\n", table.Bytes(m.Kernel.Size+m.Initramfs.Size), builtIn(m.Cached, a.now().Sub(start)))
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&c.Out, "out", "build/agentos", "`directory` for vmlinuz, initramfs.zst, agent.iso and their manifests")
	flags.StringVar(&c.Agent, "agent", "", "the agent, a static `binary` (default: bedplate-agent beside this program)")
	flags.StringVar(&c.KernelPackage, "kernel-package", "linux-image-amd64", "Debian `package` with the kernel")
	flags.StringVar(&c.KernelDeb, "kernel-deb", "", "package `file` to use instead of the archive's")
	flags.StringSliceVar(&c.Modules, "module", nil, "kernel `module` to add; may be repeated")
	flags.StringVar(&c.Firmware, "firmware", "", "`directory` to take drivers' firmware from, such as /lib/firmware (default: none)")
	flags.StringVar(&c.Cache, "cache", "", "`directory` for downloaded packages (default: cache beside --out)")
	flags.BoolVar(&c.Force, "force", false, "build even if nothing has changed")
	flags.BoolVar(&noMedium, "no-medium", false, "do not make the boot medium for networks without DHCP")
	return cmd
}

// agentBesideSelf is the agent that was built with this program.
func agentBesideSelf() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding this program: %w", err)
	}
	return filepath.Join(filepath.Dir(self), "bedplate-agent"), nil
}

// sourceDate is $SOURCE_DATE_EPOCH (reproducible-builds.org), else zero.
func (a *app) sourceDate() (time.Time, error) {
	s := a.getenv("SOURCE_DATE_EPOCH")
	if s == "" {
		return time.Time{}, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}, usageError{fmt.Errorf("SOURCE_DATE_EPOCH %q is no number of seconds", s)}
	}
	return time.Unix(n, 0), nil
}

// buildProgress shows the phases of a build, one after the other.
func buildProgress(screen *table.Screen) func(phase string, done, total int64) {
	last := ""
	return func(phase string, done, total int64) {
		if last != "" && last != phase {
			screen.Remove(last)
		}
		last = phase
		screen.Set(phase, table.Bar{Label: phase, Done: done, Total: total, Unit: "bytes"})
	}
}

func builtIn(cached bool, took time.Duration) string {
	if cached {
		return "built before from the same inputs"
	}
	return "built in " + took.Round(100*time.Millisecond).String()
}

func newDebianImageCommand(a *app) *cobra.Command {
	var c debian.Config
	var live bool
	size := int64(0)
	cmd := &cobra.Command{
		Use:   "debian-image",
		Short: "Build a small Debian disk image",
		Long: `Build a small Debian disk image that boots by BIOS, UEFI and UEFI with Secure Boot
and is configured by cloud-init, or by Ignition. Needs mmdebstrap and a few other packages; an error
names those that are missing. Root is not needed, nor are loop devices.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			start := a.now()
			c.Size = size << 20
			screen := a.screen(a.stderr)
			c.Progress = buildProgress(screen)
			build := debian.Build
			if live {
				build = debian.BuildLive
				if !cmd.Flags().Changed("out") {
					c.Out = "build/images/debian-live.initramfs.zst"
				}
			}
			m, err := build(cmd.Context(), c)
			if cerr := screen.Close(); err == nil {
				err = cerr
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "%s %s, %s on a disk, %s\n", table.Bytes(m.Size), c.Out, table.Bytes(m.DiskSize), builtIn(m.Cached, a.now().Sub(start)))
			fmt.Fprintf(a.stdout, "sha256:%s\n", m.SHA256)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&c.Out, "out", "build/images/debian.raw.zst", "`file` to write")
	flags.StringVar(&c.Suite, "suite", "bookworm", "Debian `release`")
	flags.StringVar(&c.Mirror, "mirror", "", "`URL` of the archive (default: mmdebstrap's)")
	flags.StringVar(&c.Kernel, "kernel-package", "linux-image-cloud-amd64", "Debian `package` with the kernel; linux-image-amd64 has drivers for all servers")
	flags.BoolVar(&live, "live", false, "make a system that runs in memory: an initramfs, and its kernel beside it")
	flags.BoolVar(&c.Ignition, "ignition", false, "have it configured by Ignition in place of cloud-init")
	flags.StringSliceVar(&c.Packages, "package", nil, "further `package` to install; may be repeated")
	flags.Int64Var(&size, "size", 0, "length of the image in `MiB` (default: what it needs)")
	flags.StringVar(&c.Level, "level", "better", "of compression: fastest, default, better or best")
	flags.StringVar(&c.Cache, "cache", "", "`directory` for installed packages (default: cache beside --out's)")
	flags.BoolVar(&c.Refresh, "refresh", false, "install the packages anew, for security updates")
	return cmd
}
