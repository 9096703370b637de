package storage

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/bedplate/bedplate/agent/step"
	"github.com/bedplate/bedplate/layout"
)

// notes keeps what a step has to say.
type notes struct{ lines []string }

func (n *notes) Log(_, line string)                  { n.lines = append(n.lines, line) }
func (*notes) Progress(int64, int64, string, string) {}
func (n *notes) text() string                        { return strings.Join(n.lines, "\n") }
func noTPM() (transport.TPMCloser, error)            { return nil, fmt.Errorf("opening: %w", fs.ErrNotExist) }
func nothing(string) error                           { return nil }
func crypt(l *layout.Layout) (op Operation) {
	return Operation{Verb: Make, Node: l.Of(layout.Encryption)[0]}
}

// cryptRunner is a runner whose programs only note how they were called.
func cryptRunner(t *testing.T, text string, keys map[string]string) (*runner, *[]Command, *notes) {
	t.Helper()
	var calls []Command
	said := &notes{}
	l := layoutOf(t, text)
	r := &runner{
		Service: &Service{Config{LoadModule: nothing, OpenTPM: noTPM, Random: rand.Reader, Sys: t.TempDir(), Run: func(_ context.Context, c Command) error {
			calls = append(calls, c)
			return nil
		}}},
		rep: said, layout: l, keys: keys, device: map[*layout.Node]string{l.Node("d"): "/dev/vdb1"}, keyFiles: map[string][]byte{},
	}
	return r, &calls, said
}

func TestMakeCrypt(t *testing.T) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	text := `{disks: [{name: d, serial: S}], encryption: [{name: v, device: d, key_secret: k, key_file: true, recovery_recipients: [` + identity.Recipient().String() + `]}]}`
	r, calls, said := cryptRunner(t, text, map[string]string{"k": "open sesame\n"})
	if err := r.makeCrypt(t.Context(), crypt(r.layout)); err != nil {
		t.Fatal(err)
	}
	var got []string
	secrets := [][]byte{[]byte("open sesame"), r.keyFiles["v"]}
	for _, c := range *calls {
		got = append(got, strings.Join(c.Args, " "))
		for _, f := range append(c.Files, c.Stdin) {
			if len(f) > 20 && !bytes.HasPrefix(f, []byte("{")) {
				secrets = append(secrets, f)
			}
		}
	}
	derived := " --pbkdf pbkdf2 --hash sha512 --pbkdf-force-iterations 1000 /dev/vdb1 /dev/fd/4"
	want := []string{
		"cryptsetup luksFormat --type luks2 --batch-mode --label v --key-slot 0 --key-file - --pbkdf-memory 262144 /dev/vdb1",
		"cryptsetup luksAddKey --batch-mode --key-slot 1 --key-file /dev/fd/3" + derived,
		"cryptsetup token import --json-file - /dev/vdb1",
		"cryptsetup luksAddKey --batch-mode --key-slot 2 --key-file /dev/fd/3" + derived,
		"cryptsetup token import --json-file - /dev/vdb1",
		"cryptsetup open --type luks2 --key-file - /dev/vdb1 v",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("programs (-want +got):\n%s", diff)
	}
	if got := string((*calls)[0].Stdin); got != "open sesame" {
		t.Errorf("the passphrase is %q: a newline at the end of a file isn't part of it", got)
	}
	shown := strings.Join(got, "\n") + said.text() + fmt.Sprint(r.recovery)
	for _, s := range secrets {
		if strings.Contains(shown, string(s)) {
			t.Errorf("a key of %d bytes is on a command line, in the log or in the outputs", len(s))
		}
	}
	if len(secrets) < 4 {
		t.Errorf("only %d keys were seen", len(secrets))
	}
}

func TestMakeCrypt_WithoutTPM(t *testing.T) {
	for name, c := range map[string]struct{ encryption, want string }{
		"one that is required is missed":     {"tpm: required, key_secret: k", "v wants a TPM, and the machine has none that the kernel knows"},
		"one that would be nice is not":      {"tpm: auto, key_secret: k", ""},
		"a secret without a value is missed": {"tpm: none, key_secret: other", "secret other has no value under the key `passphrase`"},
	} {
		t.Run(name, func(t *testing.T) {
			r, calls, _ := cryptRunner(t, "{disks: [{name: d, serial: S}], encryption: [{name: v, device: d, "+c.encryption+"}]}", map[string]string{"k": "x"})
			err := r.makeCrypt(t.Context(), crypt(r.layout))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
			if err != nil && len(*calls) > 0 {
				t.Errorf("the disk was touched first: %v", (*calls)[0].Args)
			}
		})
	}
}

func TestRun(t *testing.T) {
	var got []string
	err := run(t.Context(), Command{
		Args: []string{"sh", "-c", "cat; cat /dev/fd/3 /dev/fd/4; echo problem >&2; exit 3"}, Stdin: []byte("in\n"), Files: [][]byte{[]byte("three\n"), []byte("four")},
		Line: func(stream, text string) { got = append(got, stream+": "+text) },
	})
	if err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("error is %v", err)
	}
	want := map[string]bool{"stdout: in": true, "stdout: three": true, "stdout: four": true, "stderr: problem": true}
	for _, line := range got {
		delete(want, line)
	}
	if len(want) > 0 {
		t.Errorf("of what was printed %v is missing: %v", want, got)
	}
	if err := run(t.Context(), Command{Args: []string{"no-such-program"}}); err == nil || !strings.Contains(err.Error(), "isn't in the agent's system") {
		t.Errorf("a missing program: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errCrash)
	if err := run(ctx, Command{Args: []string{"sleep", "60"}, Files: [][]byte{make([]byte, 1<<20)}}); !errors.Is(err, errCrash) {
		t.Errorf("a cancelled run: %v", err)
	}
}

var _ step.Reporter = (*notes)(nil)
