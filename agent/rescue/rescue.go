// Package rescue is the action rescue.ssh: a shell on the agent's system for
// people who have to look at a machine, or to repair what is on its disks.
//
// The agent's system has no shell of its own and listens on nothing. The action
// brings both for as long as it runs: an SSH server (RFC 4252 to 4254) that lets
// in the given public keys and nobody else, and busybox, whose programs are in
// the path of these sessions only. It has terminals, commands, and files (SFTP);
// forwarding of any kind is refused. The host key is made once per boot, and its
// fingerprint is in the workflow's log before anyone can connect.
//
// Everyone who gets in is root. Who came, by which key, from where and to do
// what is logged; what they typed is not. When the action ends, so does every
// process of every session.
package rescue

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bedplate/bedplate/agent/step"
)

const (
	defaultPort    = 22
	defaultTimeout = 12 * time.Hour
	maxTimeout     = 7 * 24 * time.Hour
	maxKeys        = 64
)

// Config is what a Service needs.
type Config struct {
	// Busybox is the path of the program that is the shell and its tools.
	Busybox string
	// Folder is in memory; links to busybox are made below it.
	Folder string
	// Cgroup is where cgroup2 is mounted, for ending whatever sessions have
	// started; empty, or without one, only what is in their process groups ends.
	Cgroup string
	// Prepare loads what people need, such as file systems; may be nil.
	Prepare func()
	// Consoles returns the paths of the machine's consoles; may be nil.
	Consoles func() []string
	// Address is the machine's address as people would look for it; may be nil.
	Address func() string
	// Banner is what a terminal shows first; may be empty.
	Banner string
	Random io.Reader
	Now    func() time.Time
	Log    *slog.Logger
}

// Service carries out the action.
type Service struct {
	cfg  Config
	once sync.Once
	key  ssh.Signer
	err  error
}

// New checks the configuration.
func New(c Config) (*Service, error) {
	if c.Busybox == "" || c.Folder == "" || c.Random == nil || c.Now == nil {
		return nil, errors.New("rescue: Busybox, Folder, Random and Now are needed")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{cfg: c}, nil
}

// Steps returns the action by name.
func (s *Service) Steps() step.Set { return step.Set{"rescue.ssh": step.Func(s.serve)} }

// hostKey returns the key of this boot.
func (s *Service) hostKey() (ssh.Signer, error) {
	s.once.Do(func() {
		_, private, err := ed25519.GenerateKey(s.cfg.Random)
		if err != nil {
			s.err = fmt.Errorf("making host key: %w", err)
			return
		}
		s.key, s.err = ssh.NewSignerFromKey(private)
	})
	return s.key, s.err
}

// serve is rescue.ssh. With: authorized_keys, port, timeout, console.
func (s *Service) serve(ctx context.Context, req step.Request, rep step.Reporter) (step.Result, error) {
	o, err := parseOptions(req.With)
	if err != nil {
		return step.Result{}, err
	}
	host, err := s.hostKey()
	if err != nil {
		return step.Result{}, err
	}
	if s.cfg.Prepare != nil {
		s.cfg.Prepare()
	}
	bin, err := s.tools(ctx)
	if err != nil {
		return step.Result{}, err
	}
	defer os.RemoveAll(filepath.Dir(bin))
	r := &running{s: s, rep: rep, keys: o.keys, bin: bin, group: newGroup(s.cfg.Cgroup, req.Step)}
	defer r.group.remove()
	limited, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	fingerprint := ssh.FingerprintSHA256(host.PublicKey())
	if err := r.run(limited, o, host, fingerprint); err != nil {
		return step.Result{}, err
	}
	outputs := map[string]any{"host_key": fingerprint, "sessions": int64(r.count())}
	if ctx.Err() != nil {
		return step.Result{Outputs: outputs}, context.Cause(ctx)
	}
	rep.Log(step.Agent, fmt.Sprintf("the %s are over", o.timeout))
	return step.Result{Outputs: outputs}, nil
}

// tools makes a folder with a link for every program that busybox is.
func (s *Service) tools(ctx context.Context) (string, error) {
	if _, err := os.Stat(s.cfg.Busybox); err != nil {
		return "", fmt.Errorf("the agent's system was built without a shell for rescue: %w", err)
	}
	dir, err := os.MkdirTemp(s.cfg.Folder, "rescue")
	if err != nil {
		return "", fmt.Errorf("making folder: %w", err)
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, s.cfg.Busybox, "--install", "-s", bin).CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("laying out the shell's programs: %w: %.200s", err, out), os.RemoveAll(dir))
	}
	return bin, nil
}

// running is one run of the action.
type running struct {
	s     *Service
	rep   step.Reporter
	keys  keys
	bin   string
	group *group

	mu       sync.Mutex
	sessions int
}

func (r *running) log(format string, args ...any) {
	r.rep.Log(step.Agent, fmt.Sprintf(format, args...))
}

// next counts sessions.
func (r *running) next() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sessions++
	return r.sessions
}

func (r *running) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sessions
}

// run listens until ctx is done and everything that was started has ended.
func (r *running) run(ctx context.Context, o options, host ssh.Signer, fingerprint string) error {
	var l net.Listener
	if len(o.keys) > 0 {
		var err error
		if l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf(":%d", o.port)); err != nil {
			return fmt.Errorf("listening for SSH: %w", err)
		}
		where := "this machine"
		if r.s.cfg.Address != nil {
			where = r.s.cfg.Address()
		}
		r.log("ssh -p %d root@%s, for %s; host key %s (%s)", l.Addr().(*net.TCPAddr).Port, where, o.timeout, fingerprint, host.PublicKey().Type())
		for _, k := range o.keys {
			r.log("key %s %s is let in", ssh.FingerprintSHA256(k.key), k.comment)
		}
	}
	var wg sync.WaitGroup
	if l != nil {
		stop := context.AfterFunc(ctx, func() { l.Close() })
		defer stop()
		wg.Go(func() { r.accept(ctx, l, host) })
	}
	if o.console {
		for _, path := range r.consoles() {
			wg.Go(func() { r.console(ctx, path) })
		}
	}
	<-ctx.Done()
	r.group.kill()
	wg.Wait()
	return nil
}
