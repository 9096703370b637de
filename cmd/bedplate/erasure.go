package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
	"github.com/bedplate/bedplate/erasure"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/trust"
)

func newErasureCommand(a *app) *cobra.Command {
	noun := &cobra.Command{Use: "erasure", Aliases: []string{"erasures"}, Short: "Records of erased machines: list, fetch, and verify without a server"}
	noun.AddCommand(newErasureListCommand(a), newErasureGetCommand(a), newErasureVerifyCommand(a))
	return noun
}

func newErasureListCommand(a *app) *cobra.Command {
	kind := mustKind("Erasure")
	list := getCommand(a, func([]string) ([]ref, error) { return refsOf(kind, nil), nil })
	list.Use, list.Aliases, list.Short, list.Args = "list", []string{"ls"}, "List the records of erasures", args(cobra.NoArgs)
	list.Example = "  bedplate machine erasure list -l " + erasure.LabelMachine + "=web-1"
	return list
}

func newErasureGetCommand(a *app) *cobra.Command {
	var machine string
	cmd := &cobra.Command{
		Use:   "get NAME | --machine MACHINE",
		Short: "Write a signed record to the standard output, to keep it",
		Long: `Write a signed record to the standard output, to keep it: the JSON document that
"bedplate machine erasure verify" checks. With --machine it is the machine's
newest one.`,
		Example:           "  bedplate machine erasure get web-1-20261121-115900 > web-1.json",
		Args:              args(cobra.MaximumNArgs(1)),
		ValidArgsFunction: a.completeOne(mustKind("Erasure")),
		RunE: func(cmd *cobra.Command, words []string) error {
			if (len(words) == 1) == (machine != "") {
				return usageError{errors.New("which record? give its name, or the machine's with --machine")}
			}
			return a.with(cmd.Context(), func(c *client) error {
				name := strings.Join(words, "")
				if machine != "" {
					m, err := c.get(cmd.Context(), mustKind("Machine"), machine)
					if err != nil {
						return err
					}
					if name = m.(*pb.Machine).GetStatus().GetErasure(); name == "" {
						return hint(fmt.Errorf("machine/%s has no record of an erasure", machine), "one is made when it is released")
					}
				}
				e, err := c.get(cmd.Context(), mustKind("Erasure"), name)
				if err != nil {
					return err
				}
				_, err = io.WriteString(a.stdout, e.(*pb.Erasure).GetStatus().GetDocument())
				return err
			})
		},
	}
	cmd.Flags().StringVar(&machine, "machine", "", "the newest record of this `machine`")
	return cmd
}

func newErasureVerifyCommand(a *app) *cobra.Command {
	var key, machine string
	cmd := &cobra.Command{
		Use:   "verify FILE...",
		Short: "Check signed records without a server",
		Long: `Check signed records without a server: that they were not changed, that a key
which is trusted has signed them, and that they say of every disk that it is
erased and verified. What is trusted is the CA of the client's configuration, or
the one that --ca names, or a key. A - is the standard input.

The command fails if one of the records proves nothing, and says why. It ends
with 3 where all that is wrong is what genuine records say themselves: that a
disk could not be erased. What was done to each is printed then as well.`,
		Example: "  bedplate machine erasure verify web-1.json --ca sha256:9f0c…\n  bedplate machine erasure get --machine web-1 | bedplate machine erasure verify - --machine web-1",
		Args:    args(cobra.MinimumNArgs(1)),
		RunE: func(_ *cobra.Command, paths []string) error {
			pins, err := a.erasureTrust(key)
			if err != nil {
				return err
			}
			var failed error
			for _, path := range paths {
				err := a.verifyErasure(path, machine, pins)
				if err == nil {
					continue
				}
				// What a forged record says goes to no terminal as it is.
				for line := range strings.SplitSeq(err.Error(), "\n") {
					a.report(fmt.Errorf("%s: %s", path, table.Clean(line)))
				}
				if !erasure.Authentic(err) {
					failed = errReported
				} else if failed == nil {
					failed = errNotErased
				}
			}
			return failed
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "trust this key in place of a CA: sha256: and the `digest` of its public key")
	cmd.Flags().StringVar(&machine, "machine", "", "the `machine` that the records must be of: its name, UUID or serial number")
	return cmd
}

// erasureTrust returns what records are held against: a key, or any of the CAs
// that the client knows. No server has to be known.
func (a *app) erasureTrust(key string) ([]erasure.Trust, error) {
	if key != "" {
		return []erasure.Trust{{KeyDigest: key}}, nil
	}
	var c clientConfig
	if path, err := a.configPath(); err == nil && a.flags.ca == "" {
		if c, err = readConfig(path); err != nil {
			return nil, err
		}
	}
	if err := c.setCA(a.flags.ca); err != nil {
		return nil, err
	}
	if c.CADigest != "" {
		return []erasure.Trust{{CADigest: c.CADigest}}, nil
	}
	var out []erasure.Trust
	for rest := []byte(c.CA); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			out = append(out, erasure.Trust{CADigest: trust.CertificateDigest(cert)})
		}
	}
	if len(out) == 0 {
		return nil, usageError{errors.New("whom to trust? no CA is configured: give one with --ca (a digest or ca.crt), or a key with --key")}
	}
	return out, nil
}

func (a *app) verifyErasure(path, machine string, pins []erasure.Trust) error {
	doc, err := a.readDocument(path)
	if err != nil {
		return err
	}
	var r *erasure.Record
	for _, pin := range pins {
		pin.Machine = machine
		if r, err = erasure.Verify(doc, pin); !errors.Is(err, erasure.ErrUnknownKey) {
			break
		}
	}
	if err != nil && !erasure.Authentic(err) {
		return err
	}
	who := fmt.Sprintf("machine %s (serial number %s)", table.Clean(r.Machine.Name), orElse(table.Clean(r.Machine.Serial), "none"))
	verdict := who + " is erased and verified: " + disksAt(r)
	if err != nil {
		verdict = "authentic, but not an erasure: " + who + ": " + disksDone(r)
	}
	return errors.Join(a.showErasure(path, verdict, r), err)
}

// showErasure prints a record that is genuine.
func (a *app) showErasure(path, verdict string, r *erasure.Record) error {
	fprintf(a.stdout, "%s: %s, %s, asked for by %s\n", path, verdict, r.Time.Format(time.RFC3339), table.Clean(r.Operator))
	t := &table.Table{Header: []string{"  DISK", "MODEL", "SERIAL", "SIZE", "METHOD", "LEVEL", "VERIFIED"}}
	for _, d := range r.Devices {
		how := d.Verification.Kind + ": " + d.Verification.Result
		if !d.OK {
			how = "not erased"
		}
		t.Add(clean("  "+d.Name, d.Model, d.Serial, table.Bytes(uint64(d.SizeBytes)), orElse(d.Method, "-"), orElse(d.Level, "-"), how)...)
	}
	if len(r.Devices) == 0 {
		return nil
	}
	return t.Write(a.stdout)
}

// disksDone counts the disks of a record that is no proof.
func disksDone(r *erasure.Record) string {
	n := 0
	for _, d := range r.Devices {
		if d.OK {
			n++
		}
	}
	if len(r.Devices) == 0 {
		return "no disk is on record"
	}
	return fmt.Sprintf("%d of %d disks on record are erased", n, len(r.Devices))
}

func disksAt(r *erasure.Record) string {
	switch n := len(r.Devices); n {
	case 0:
		return "it has no disk"
	case 1:
		return "1 disk, level " + r.Level
	default:
		return fmt.Sprintf("%d disks, level %s", n, r.Level)
	}
}

// readDocument reads a record; one that is too long to be one isn't read whole.
func (a *app) readDocument(path string) ([]byte, error) {
	in := a.stdin
	if path != "-" {
		f, err := os.Open(filepath.Clean(path))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	return io.ReadAll(io.LimitReader(in, erasure.MaxDocument+1))
}

func (a *app) erasureColumns() (narrow, wide []column) {
	result := of("RESULT", func(e *pb.Erasure) string {
		if e.GetStatus().GetOk() {
			return "erased"
		}
		return "failed"
	})
	result.style = a.style(a.stdout).State
	return []column{
			of("MACHINE", func(e *pb.Erasure) string { return e.GetStatus().GetMachine() }),
			result,
			of("LEVEL", func(e *pb.Erasure) string { return e.GetStatus().GetLevel() }),
			of("DISKS", func(e *pb.Erasure) string { return fmt.Sprint(e.GetStatus().GetDisks()) }),
			of("OPERATOR", func(e *pb.Erasure) string { return e.GetStatus().GetOperator() }),
		}, []column{
			of("SERIAL", func(e *pb.Erasure) string { return e.GetStatus().GetSerial() }),
			of("WORKFLOW", func(e *pb.Erasure) string { return e.GetStatus().GetWorkflow() }),
			of("INSTANCE", func(e *pb.Erasure) string { return e.GetStatus().GetInstance() }),
			of("PROBLEMS", func(e *pb.Erasure) string { return strings.Join(e.GetStatus().GetProblems(), "; ") }),
		}
}
