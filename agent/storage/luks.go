package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/bedplate/bedplate/agent/tpm"
	"github.com/bedplate/bedplate/layout"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// key opens a container by one key slot.
type key struct {
	// what says it for people.
	what string
	pass []byte
	// weak keys are made up by people, and derived slowly.
	weak bool
	// token describes the slot in the header; nil for none.
	token func(slot int) ([]byte, error)
}

// The types of tokens that aren't the TPM's. systemd knows the first; the
// second is ours, so that a reinstallation finds the key that it replaces.
const (
	recoveryToken = "systemd-recovery"
	fileToken     = "bedplate-key-file"
)

func plainToken(kind string) func(int) ([]byte, error) {
	return func(slot int) ([]byte, error) {
		return json.Marshal(map[string]any{"type": kind, "keyslots": []string{strconv.Itoa(slot)}})
	}
}

func mapped(n *layout.Node) string { return "/dev/mapper/" + n.Name }

func (r *runner) loadCrypt() error {
	for _, m := range []string{"dm-mod", "dm-crypt", "algif_skcipher", "xts"} {
		if err := r.LoadModule(m); err != nil {
			return fmt.Errorf("loading module %s: %w", m, err)
		}
	}
	return nil
}

// makeCrypt makes a container with a key slot for each way to open it.
func (r *runner) makeCrypt(ctx context.Context, op Operation) error {
	n, e := op.Node, r.layout.Spec.Encryption[op.Node.Index]
	if err := r.loadCrypt(); err != nil {
		return err
	}
	keys, err := r.newKeys(n, e)
	if err != nil {
		return err
	}
	dev := r.device[n.On[0]]
	for slot, k := range keys {
		if slot == 0 {
			args := append([]string{"cryptsetup", "luksFormat", "--type", "luks2", "--batch-mode", "--label", n.Name, "--key-slot", "0", "--key-file", "-"}, derivation(k)...)
			err = r.tool(ctx, k.pass, append(args, dev)...)
		} else {
			err = r.addKey(ctx, dev, keys[0].pass, slot, k)
		}
		if err == nil {
			err = r.addToken(ctx, dev, slot, k)
		}
		if err != nil {
			return err
		}
		r.say("%s: key slot %d: %s", n.Name, slot, k.what)
	}
	return r.openWith(ctx, n, keys[0].pass)
}

// passphraseMemory is what deriving a key from a passphrase may take, in KiB:
// cryptsetup's own 1 GiB, or half of the machine, is too much beside a system
// that lives in memory.
const passphraseMemory = 256 << 10

// derivation: keys of 256 random bits need no slow function, which protects
// what people make up, and which would cost seconds at each boot.
func derivation(k key) []string {
	if k.weak {
		return []string{"--pbkdf-memory", strconv.Itoa(passphraseMemory)}
	}
	return []string{"--pbkdf", "pbkdf2", "--hash", "sha512", "--pbkdf-force-iterations", "1000"}
}

func (r *runner) addKey(ctx context.Context, dev string, with []byte, slot int, k key) error {
	args := append([]string{"cryptsetup", "luksAddKey", "--batch-mode", "--key-slot", strconv.Itoa(slot), "--key-file", "/dev/fd/3"}, derivation(k)...)
	return r.program(ctx, Command{Args: append(args, dev, "/dev/fd/4"), Files: [][]byte{with, k.pass}})
}

func (r *runner) addToken(ctx context.Context, dev string, slot int, k key) error {
	if k.token == nil {
		return nil
	}
	b, err := k.token(slot)
	if err != nil {
		return err
	}
	return r.tool(ctx, b, "cryptsetup", "token", "import", "--json-file", "-", dev)
}

func (r *runner) openWith(ctx context.Context, n *layout.Node, pass []byte) error {
	args := []string{"cryptsetup", "open", "--type", "luks2", "--key-file", "-"}
	if r.readOnly {
		args = append(args, "--readonly")
	}
	if err := r.tool(ctx, pass, append(args, r.device[n.On[0]], n.Name)...); err != nil {
		return err
	}
	r.device[n] = mapped(n)
	return nil
}

// newKeys are the keys of a container that is made. The one from the Secret
// comes first, being the one that later runs open it by.
func (r *runner) newKeys(n *layout.Node, e *pb.StorageEncryption) ([]key, error) {
	var keys []key
	if name := e.GetKeySecret(); name != "" {
		pass, err := r.passphrase(name)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key{what: "passphrase of secret " + name, pass: pass, weak: true})
	}
	if len(e.GetRecoveryRecipients()) > 0 {
		k, err := r.recoveryKey(n, e.GetRecoveryRecipients())
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	if e.GetKeyFile() {
		k, err := r.fileKey(n)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	bound, err := r.tpmKeys(e)
	if err != nil {
		return nil, err
	}
	if keys = append(keys, bound...); len(keys) == 0 {
		return nil, fmt.Errorf("%s: nothing would open it: the machine has no TPM, and no other key is declared", n.Path)
	}
	return keys, nil
}

// passphrase is the value of a Secret, without the newline that files end in.
func (r *runner) passphrase(secret string) ([]byte, error) {
	pass := strings.TrimRight(r.keys[secret], "\r\n")
	if pass == "" {
		return nil, fmt.Errorf("secret %s has no value under the key `passphrase`", secret)
	}
	return []byte(pass), nil
}

// fileKeyLength is in bytes.
const fileKeyLength = 64

func (r *runner) fileKey(n *layout.Node) (key, error) {
	pass := make([]byte, fileKeyLength)
	if _, err := io.ReadFull(r.Random, pass); err != nil {
		return key{}, fmt.Errorf("reading random bytes: %w", err)
	}
	r.keyFiles[n.Name] = pass
	return key{what: "key file of the installed system", pass: pass, token: plainToken(fileToken)}, nil
}

// tpmKeys binds keys to the TPM: one for each value that PCR 7 can have when
// the installed system boots.
func (r *runner) tpmKeys(e *pb.StorageEncryption) ([]key, error) {
	if e.GetTpm() == "none" {
		return nil, nil
	}
	t, err := r.OpenTPM()
	if errors.Is(err, fs.ErrNotExist) && e.GetTpm() != "required" {
		r.say("%s: the machine has no TPM: no key is bound to one", e.GetName())
		return nil, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s wants a TPM, and the machine has none that the kernel knows: %w", e.GetName(), err)
	}
	if err != nil {
		return nil, err
	}
	defer t.Close() // Nothing is left in it.
	candidates, err := r.registers(t, e)
	if err != nil {
		return nil, err
	}
	var keys []key
	for _, values := range candidates {
		secret, sealed, err := tpm.Seal(t, r.Random, values)
		if err != nil {
			return nil, err
		}
		what := "bound to the TPM"
		if len(values) > 0 {
			what += fmt.Sprintf(", PCRs %v", values.PCRs())
		}
		keys = append(keys, key{what: what, pass: tpm.Passphrase(secret), token: sealed.Token})
	}
	return keys, nil
}

// openCrypt opens a container that is kept, and renews the keys that don't
// survive a reinstallation.
func (r *runner) openCrypt(ctx context.Context, op Operation) error {
	n, e := op.Node, r.layout.Spec.Encryption[op.Node.Index]
	if err := r.loadCrypt(); err != nil {
		return err
	}
	h, err := r.header(ctx, n)
	if err != nil {
		return err
	}
	pass, bound, err := r.unlock(n, e, h)
	if err != nil {
		return err
	}
	if err := r.openWith(ctx, n, pass); err != nil {
		return err
	}
	if r.readOnly {
		return nil
	}
	return r.renew(ctx, n, e, h, pass, bound)
}

// header is what a LUKS2 header says in JSON.
type header struct {
	Keyslots map[string]json.RawMessage `json:"keyslots"`
	Tokens   map[string]json.RawMessage `json:"tokens"`
}

func (r *runner) header(ctx context.Context, n *layout.Node) (header, error) {
	dev := r.device[n.On[0]]
	out, err := r.ask(ctx, "cryptsetup", "luksDump", "--dump-json-metadata", dev)
	if err != nil {
		return header{}, fmt.Errorf("encryption %s is declared, but %s (%s) is no LUKS2 container: %w", n.Name, n.On[0].Name, dev, err)
	}
	h, err := parseHeader(out)
	if err != nil {
		return h, fmt.Errorf("reading the LUKS2 header of %s: %w", dev, err)
	}
	return h, nil
}

func parseHeader(text string) (header, error) {
	h := header{Keyslots: map[string]json.RawMessage{}}
	return h, json.Unmarshal([]byte(text), &h)
}

// slots returns the key slots and the tokens of a type.
func (h header) slots(kind string) (slots, tokens []string) {
	for id, raw := range h.Tokens {
		var t struct {
			Type     string   `json:"type"`
			Keyslots []string `json:"keyslots"`
		}
		if json.Unmarshal(raw, &t) == nil && t.Type == kind {
			tokens = append(tokens, id)
			slots = append(slots, t.Keyslots...)
		}
	}
	slices.Sort(slots)
	slices.Sort(tokens)
	return slices.Compact(slots), tokens
}

// free returns the lowest key slot that isn't in use.
func (h header) free() int {
	for slot := 0; ; slot++ {
		if _, taken := h.Keyslots[strconv.Itoa(slot)]; !taken {
			return slot
		}
	}
}

// unlock finds a key: the Secret's, else one that the TPM gives away. bound
// says that the TPM does.
func (r *runner) unlock(n *layout.Node, e *pb.StorageEncryption, h header) (pass []byte, bound bool, err error) {
	fromTPM, terr := r.unseal(e, h)
	if name := e.GetKeySecret(); name != "" {
		pass, err := r.passphrase(name)
		return pass, terr == nil, err
	}
	if terr != nil {
		return nil, false, fmt.Errorf("%s is kept, but can't be opened: it has no key_secret, and %w", n.Name, terr)
	}
	return fromTPM, true, nil
}

func (r *runner) unseal(e *pb.StorageEncryption, h header) ([]byte, error) {
	if e.GetTpm() == "none" {
		return nil, errors.New("no TPM is to be used")
	}
	t, err := r.OpenTPM()
	if err != nil {
		return nil, err
	}
	defer t.Close() // Nothing is left in it.
	var errs []error
	_, tokens := h.slots(tpm.TokenType)
	for _, id := range tokens {
		sealed, ok, err := tpm.ParseToken(h.Tokens[id])
		if err == nil && ok {
			var secret []byte
			if secret, err = tpm.Unseal(t, sealed); err == nil {
				return tpm.Passphrase(secret), nil
			}
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return nil, errors.Join(append(errs, errors.New("no key in its header is one that this TPM gives away now"))...)
}

// renew replaces the key file's key, which the old system had, and binds the
// container to the TPM anew where that doesn't give a key away any more.
func (r *runner) renew(ctx context.Context, n *layout.Node, e *pb.StorageEncryption, h header, pass []byte, bound bool) error {
	if err := r.replace(ctx, n, h, pass, fileToken, e.GetKeyFile(), func() ([]key, error) {
		k, err := r.fileKey(n)
		return []key{k}, err
	}); err != nil {
		return err
	}
	if bound || e.GetTpm() == "none" {
		return nil
	}
	h, err := r.header(ctx, n)
	if err != nil {
		return err
	}
	return r.replace(ctx, n, h, pass, tpm.TokenType, true, func() ([]key, error) { return r.tpmKeys(e) })
}

// replace adds new keys first and removes the old ones of that type then.
func (r *runner) replace(ctx context.Context, n *layout.Node, h header, pass []byte, kind string, again bool, made func() ([]key, error)) error {
	dev := r.device[n.On[0]]
	old, tokens := h.slots(kind)
	if again {
		keys, err := made()
		if err != nil {
			return err
		}
		for _, k := range keys {
			slot := h.free()
			if err := errors.Join(r.addKey(ctx, dev, pass, slot, k), r.addToken(ctx, dev, slot, k)); err != nil {
				return err
			}
			h.Keyslots[strconv.Itoa(slot)] = nil
			r.say("%s: key slot %d: %s", n.Name, slot, k.what)
		}
	}
	for _, id := range tokens {
		if err := r.tool(ctx, nil, "cryptsetup", "token", "remove", "--token-id", id, dev); err != nil {
			return err
		}
	}
	for _, slot := range old {
		if err := r.program(ctx, Command{Args: []string{"cryptsetup", "luksKillSlot", "--batch-mode", "--key-file", "/dev/fd/3", dev, slot}, Files: [][]byte{pass}}); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) cryptUUID(ctx context.Context, n *layout.Node) (string, error) {
	out, err := r.ask(ctx, "cryptsetup", "luksUUID", r.device[n.On[0]])
	return strings.TrimSpace(out), err
}
