package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
)

func newInstanceCommand(a *app) *cobra.Command {
	noun := newNounCommand(a, mustKind("Instance"), "Operating systems on machines")
	noun.AddCommand(newInstanceCreateCommand(a), newReinstallCommand(a))
	for _, c := range noun.Commands() {
		if c.Name() == "delete" {
			waitForRelease(a, c)
		}
	}
	return noun
}

// instanceFlags are what `instance create` is given.
type instanceFlags struct {
	spec                    pb.InstanceSpec
	inputs, keys, labels    []string
	userData, networkConfig string
	wait                    bool
	timeout                 time.Duration
}

func newInstanceCreateCommand(a *app) *cobra.Command {
	f := &instanceFlags{}
	cmd := &cobra.Command{
		Use:   "create NAME --image IMAGE [--machine NAME | --selector CEL]",
		Short: "Install an operating system on a machine",
		Long: `Create an instance: the server picks the machine, unless it is named, installs the
image on it, and hands over what the operating system configures itself by.`,
		Example: "  bedplate instance create web --image debian-13 --machine web-1 --ssh-key ~/.ssh/id_ed25519.pub --wait\n  bedplate instance create db --image debian-13 --selector 'machine.labels.rack == \"r1\"' --user-data cloud.yaml",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, words []string) error {
			instance, err := f.instance(words[0])
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(c *client) error {
				if _, err := c.create(cmd.Context(), mustKind("Instance"), instance, false); err != nil {
					return err
				}
				fprintf(a.stdout, "instance/%s created\n", words[0])
				if !f.wait {
					return nil
				}
				return a.waitInstance(cmd.Context(), c, words[0], f.timeout, false)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.spec.Image, "image", "", "`name` of the image")
	flags.StringVarP(&f.spec.Machine, "machine", "m", "", "`name` of the machine")
	flags.StringVar(&f.spec.Selector, "selector", "", "`CEL` over machine that picks one, such as machine.labels.rack == \"r1\"")
	flags.StringVar(&f.spec.Template, "template", "", "`name` of the template that installs it (default: the built-in one)")
	flags.StringArrayVarP(&f.inputs, "input", "i", nil, "`key=value` for the template, the value in YAML; may be given more than once")
	flags.StringVar(&f.spec.Hostname, "hostname", "", "host name (default: the machine's)")
	flags.StringArrayVar(&f.keys, "ssh-key", nil, "OpenSSH public `key`, or the file it is in; may be given more than once")
	flags.StringVar(&f.userData, "user-data", "", "`file` of cloud-init user data")
	flags.StringVar(&f.networkConfig, "network-config", "", "`file` of cloud-init network configuration")
	flags.StringVar(&f.spec.DiskHint, "disk", "", "`CEL` over disk that picks the disk to install on")
	flags.StringArrayVar(&f.labels, "label", nil, "`key=value` label; may be given more than once")
	addWait(cmd, &f.wait, &f.timeout, "wait until it is active, and show how it goes")
	mustComplete(cmd, "image", a.completeNames(mustKind("Image")))
	mustComplete(cmd, "machine", a.completeNames(mustKind("Machine")))
	mustComplete(cmd, "template", a.completeNames(mustKind("Template")))
	return cmd
}

func addWait(cmd *cobra.Command, wait *bool, timeout *time.Duration, what string) {
	cmd.Flags().BoolVarP(wait, "wait", "w", false, what)
	cmd.Flags().DurationVar(timeout, "timeout", time.Hour, "fail when --wait takes longer than this")
}

// instance makes the resource of the flags.
func (f *instanceFlags) instance(name string) (*pb.Instance, error) {
	out := &pb.Instance{Metadata: &pb.Metadata{Name: name, Labels: map[string]string{}}, Spec: &f.spec}
	for _, l := range f.labels {
		key, value, ok := strings.Cut(l, "=")
		if !ok {
			return nil, usageError{fmt.Errorf("--label %s: key=value is expected", l)}
		}
		out.Metadata.Labels[key] = value
	}
	var err error
	if f.spec.Inputs, err = readInputs(f.inputs, nil); err != nil {
		return nil, err
	}
	for _, k := range f.keys {
		keys, err := sshKeys(k)
		if err != nil {
			return nil, err
		}
		f.spec.SshKeys = append(f.spec.SshKeys, keys...)
	}
	for _, from := range []struct {
		file string
		to   *string
	}{{f.userData, &f.spec.UserData}, {f.networkConfig, &f.spec.NetworkConfig}} {
		if from.file != "" {
			if *from.to, err = valueOrFile("@" + from.file); err != nil {
				return nil, err
			}
		}
	}
	if err := resource.Validate(out); err != nil {
		return nil, usageError{err}
	}
	return out, nil
}

// sshKeys returns the keys of a file, or the one that is given itself.
func sshKeys(given string) ([]string, error) {
	text := given
	if _, err := os.Stat(given); err == nil {
		if text, err = valueOrFile("@" + given); err != nil {
			return nil, err
		}
	}
	var out []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out, nil
}

// waitForRelease gives `instance delete` --wait.
func waitForRelease(a *app, cmd *cobra.Command) {
	var wait bool
	var timeout time.Duration
	remove := cmd.RunE
	addWait(cmd, &wait, &timeout, "wait until the machine has been wiped and is free again")
	cmd.RunE = func(cmd *cobra.Command, words []string) error {
		if err := remove(cmd, words); err != nil || !wait {
			return err
		}
		return a.with(cmd.Context(), func(c *client) error {
			for _, name := range words {
				if err := a.waitInstance(cmd.Context(), c, name, timeout, true); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// waitInstance shows an instance until it is active, or gone.
func (a *app) waitInstance(ctx context.Context, c *client, name string, timeout time.Duration, gone bool) error {
	late := fmt.Errorf("instance/%s: not done after %s", name, timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, late)
	defer cancel()
	screen := a.screen(a.stdout)
	w := &instanceWait{app: a, screen: screen, gone: gone}
	err := w.watch(ctx, c, name)
	switch {
	case errors.Is(err, errDone):
		err = nil
	case errors.Is(context.Cause(ctx), late):
		err = hint(late, fmt.Sprintf("`bedplate instance describe %s` says how far it is", name))
	case gone && codeOf(err) == codes.NotFound:
		err = nil
	}
	return errors.Join(err, screen.Close())
}

// instanceWait shows the states of an instance.
type instanceWait struct {
	*app
	screen *table.Screen
	gone   bool
	// seen: the present watch has brought it.
	seen bool
	// patient: the server has answered, so that it may be asked again.
	patient bool
	shown   string
}

// watch watches until show has seen enough; a restart of the server is waited out.
func (w *instanceWait) watch(ctx context.Context, c *client, name string) error {
	for {
		w.seen = false
		err := c.watch(ctx, mustKind("Instance"), name, "", func(ch change) error {
			w.patient = true
			return w.show(ch)
		})
		if !passing(err) || !w.patient || ctx.Err() != nil {
			return err
		}
		if err := pause(ctx, retryFirst); err != nil {
			return err
		}
	}
}

func (w *instanceWait) show(ch change) error {
	if ch.kind == pb.ChangeType_DELETED || ch.kind == pb.ChangeType_SYNCED && !w.seen {
		if w.gone {
			w.screen.Line(w.prefix(w.clock(nil), "instance") + w.style(w.stdout).Good("released"))
			return errDone
		}
		return errors.New("the instance was deleted while it was waited for")
	}
	i, ok := ch.object.(*pb.Instance)
	if !ok {
		return nil
	}
	w.seen = true
	st := i.GetStatus()
	state := resource.EnumName(st.GetState())
	text := w.style(w.stdout).State(state)
	if st.GetMachine() != "" {
		text += " on machine/" + st.GetMachine()
	}
	if st.GetCause() != "" {
		text += ": " + table.Clean(st.GetCause())
	}
	if text != w.shown && state != "" {
		w.shown = text
		w.screen.Line(w.prefix(w.clock(nil), "instance") + text)
	}
	switch st.GetState() {
	case pb.InstanceState_INSTANCE_ACTIVE:
		if !w.gone {
			return errDone
		}
	case pb.InstanceState_INSTANCE_FAILED:
		return hint(fmt.Errorf("%s failed: %s", label(i), table.Clean(st.GetCause())), fmt.Sprintf("`bedplate instance describe %s` has more", i.GetMetadata().GetName()))
	}
	return nil
}
