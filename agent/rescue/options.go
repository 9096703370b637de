package rescue

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// options are the step's inputs.
type options struct {
	keys    keys
	port    int64
	timeout time.Duration
	console bool
}

// key is one line of authorized_keys.
type key struct {
	key     ssh.PublicKey
	comment string
}

type keys []key

// find returns the key that a client offers.
func (k keys) find(offered ssh.PublicKey) (key, bool) {
	for _, one := range k {
		if subtle.ConstantTimeCompare(one.key.Marshal(), offered.Marshal()) == 1 {
			return one, true
		}
	}
	return key{}, false
}

func parseOptions(with map[string]any) (options, error) {
	o := options{port: defaultPort, timeout: defaultTimeout}
	var err error
	if o.keys, err = parseKeys(with["authorized_keys"]); err != nil {
		return o, err
	}
	switch v := with["port"].(type) {
	case int64:
		o.port = v
	case float64:
		o.port = int64(v)
	}
	if o.port < 1 || o.port > 65535 {
		return o, fmt.Errorf("port is %d: want 1 to 65535", o.port)
	}
	if s, _ := with["timeout"].(string); s != "" {
		if o.timeout, err = time.ParseDuration(s); err != nil || o.timeout <= 0 || o.timeout > maxTimeout {
			return o, fmt.Errorf("timeout is %q: want a duration such as 2h, of at most %s", s, maxTimeout)
		}
	}
	o.console, _ = with["console"].(bool)
	if len(o.keys) == 0 && !o.console {
		return o, errors.New("nobody could get in: give authorized_keys, or ask for the console")
	}
	return o, nil
}

// parseKeys reads lines as they are in authorized_keys (sshd(8)). Options,
// which restrict what a key may do, are refused rather than passed over.
func parseKeys(v any) (keys, error) {
	list, _ := v.([]any)
	if len(list) > maxKeys {
		return nil, fmt.Errorf("authorized_keys has %d keys: at most %d", len(list), maxKeys)
	}
	var out keys
	for i, e := range list {
		line, _ := e.(string)
		if strings.TrimSpace(line) == "" {
			continue
		}
		k, comment, limits, rest, err := ssh.ParseAuthorizedKey([]byte(line))
		switch {
		case err != nil:
			return nil, fmt.Errorf("authorized_keys[%d] is no public key such as `ssh-ed25519 AAAA… name`: %w", i, err)
		case len(limits) > 0:
			return nil, fmt.Errorf("authorized_keys[%d] has the option %s: keys with options can't be used here", i, limits[0])
		case len(strings.TrimSpace(string(rest))) > 0:
			return nil, fmt.Errorf("authorized_keys[%d] has more than one line: give each key by itself", i)
		}
		if _, cert := k.(*ssh.Certificate); cert {
			return nil, fmt.Errorf("authorized_keys[%d] is a certificate: give the key itself", i)
		}
		out = append(out, key{k, printable(comment)})
	}
	return out, nil
}

// printable keeps what people wrote from steering the terminal of who reads the log.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return '?'
		}
		return r
	}, s[:min(len(s), maxText)])
}

// maxText bounds what a client says that ends up in the log.
const maxText = 500
