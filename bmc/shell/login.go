package shell

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/bedplate/bedplate/bmc"
)

// clientConfig says who logs in, and whom that is told.
func clientConfig(t bmc.Target, keys *hostKey) *ssh.ClientConfig {
	once := &once{password: t.Password}
	config := &ssh.ClientConfig{
		User: t.Username,
		Auth: []ssh.AuthMethod{
			ssh.PasswordCallback(once.take),
			ssh.KeyboardInteractive(func(_, _ string, questions []string, _ []bool) ([]string, error) {
				if len(questions) == 0 {
					return nil, nil
				}
				p, err := once.take()
				return append([]string{p}, make([]string, len(questions)-1)...), err
			}),
		},
		HostKeyCallback: keys.check,
		Timeout:         dialTimeout,
	}
	// Firmware of some years ago has nothing newer, and gets no other: these come last.
	config.KeyExchanges = append(ssh.SupportedAlgorithms().KeyExchanges, ssh.InsecureKeyExchangeDH14SHA1)
	config.HostKeyAlgorithms = append(ssh.SupportedAlgorithms().HostKeys, ssh.KeyAlgoRSA)
	return config
}

// once gives a password out once: a BMC that refuses it by one method is not
// offered it by another, since each counts towards locking the account.
type once struct {
	mu       sync.Mutex
	password string
	taken    bool
}

// errTaken ends the login.
var errTaken = errors.New("the password was refused")

func (o *once) take() (string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.taken {
		return "", errTaken
	}
	o.taken = true
	return o.password, nil
}

// hostKey checks the BMC's key.
type hostKey struct {
	target bmc.Target
	want   string

	mu   sync.Mutex
	got  string
	fail error
}

// check is an ssh.HostKeyCallback.
func (h *hostKey) check(_ string, _ net.Addr, key ssh.PublicKey) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.got = ssh.FingerprintSHA256(key)
	if h.want == "" || h.want == h.got {
		return nil
	}
	h.fail = fmt.Errorf("SSH host key of BMC %s has changed from %s to %s: if the BMC was replaced or reset, set spec.bmc.ssh_host_key to the new one; if not, somebody may be in between: %w",
		h.target.Address, h.want, h.got, bmc.ErrCertificate)
	return h.fail
}

// first returns the fingerprint that was taken at its word; empty if one was wanted.
func (h *hostKey) first() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.want != "" {
		return ""
	}
	return h.got
}

// fault returns what an error of a login means.
func fault(err error, keys *hostKey) error {
	keys.mu.Lock()
	defer keys.mu.Unlock()
	switch {
	case keys.fail != nil:
		return keys.fail
	case strings.Contains(err.Error(), "unable to authenticate"), errors.Is(err, errTaken):
		return bmc.ErrAuth
	}
	return fmt.Errorf("%w: %w", bmc.ErrUnreachable, err)
}
