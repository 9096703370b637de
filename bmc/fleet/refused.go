package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/bmc"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// refusalsAllowed is how many times in a row a login may be refused before it
// isn't tried any more: once a BMC may say so that is starting, and many lock
// an account at the third to fifth.
const refusalsAllowed = 2

// RefusedError is what every call gets while the only login that is known is
// one that the BMC has refused. It is a bmc.ErrAuth; nothing was sent.
type RefusedError struct {
	Machine string
	// Login is whose password it was.
	Login string
	Time  time.Time
}

// Error says what was refused, and how it is tried again.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("machine/%s: its BMC refused the login of %s at %s, and isn't tried again until that or spec.bmc changes: correct it, or `bedplate machine bmc status %[1]s --retry` once the BMC would take it",
		e.Machine, e.Login, e.Time.UTC().Format(time.RFC3339))
}

// Is makes a RefusedError a bmc.ErrAuth.
func (e *RefusedError) Is(target error) bool { return target == bmc.ErrAuth }

// refusal returns a *RefusedError if the machine's login is the one that was
// refused.
func (f *Fleet) refusal(ctx context.Context, m *pb.Machine) error {
	r := f.newest(m).GetStatus().GetBmc().GetRefusedLogin()
	if r == nil {
		return nil
	}
	if login, err := f.login(ctx, m); err != nil || login.Digest != r.Digest {
		return err
	}
	return &RefusedError{m.GetMetadata().GetName(), r.GetLogin(), r.GetTime().AsTime()}
}

// newest returns the machine as it was last seen, where that is newer than m.
func (f *Fleet) newest(m *pb.Machine) *pb.Machine {
	f.mu.Lock()
	defer f.mu.Unlock()
	if had := f.members[m.GetMetadata().GetName()]; had != nil && had.machine.GetMetadata().GetResourceVersion() > m.GetMetadata().GetResourceVersion() {
		return had.machine
	}
	return m
}

// login describes what the machine's BMC is logged in to with, without the
// password: of a Secret it has the version, of a password that the server has
// made a digest, which tells nobody 16 random characters.
func (f *Fleet) login(ctx context.Context, m *pb.Machine) (*pb.RefusedLogin, error) {
	spec, own := m.GetSpec().GetBmc(), f.vault.find(m)
	parts := []any{
		m.GetMetadata().GetUid(), spec.GetAddress(), spec.GetProtocol(), spec.GetDriver(), spec.GetIpmiPort(), spec.GetUsername(),
		own.Time.UnixNano(), own.Current, own.Pending,
	}
	text := "user " + spec.GetUsername() + " with the password that this server gave it"
	if own.Current == "" {
		var version int64
		if secret := spec.GetPasswordSecret(); secret != "" {
			var err error
			if _, version, err = f.cfg.Secret(ctx, secret); err != nil && !errors.Is(err, store.ErrNotFound) {
				return nil, fmt.Errorf("machine/%s: reading the BMC's password: %w", m.GetMetadata().GetName(), err)
			}
		}
		parts = append(parts, spec.GetPasswordSecret(), version)
		text = fmt.Sprintf("user %s with secret/%s version %d", spec.GetUsername(), spec.GetPasswordSecret(), version)
	}
	data, err := json.Marshal(parts)
	if err != nil {
		return nil, fmt.Errorf("describing the login of machine/%s: %w", m.GetMetadata().GetName(), err)
	}
	sum := sha256.Sum256(data)
	return &pb.RefusedLogin{Login: text, Digest: hex.EncodeToString(sum[:16])}, nil
}

// noteLogin counts refused logins, and puts one on record that isn't to be
// tried again, or takes it back when the BMC has let the server in.
func (f *Fleet) noteLogin(ctx context.Context, m *pb.Machine, answered bool, err error) {
	var before *RefusedError
	refused := errors.Is(err, bmc.ErrAuth) && !errors.As(err, &before)
	name := m.GetMetadata().GetName()
	f.mu.Lock()
	had := f.members[name]
	if had == nil || !refused && !(answered && !unwell(err)) {
		f.mu.Unlock()
		return
	}
	if had.seen.refusals++; !refused {
		had.seen.refusals = 0
	}
	count, status := had.seen.refusals, had.machine.GetStatus().GetBmc()
	f.mu.Unlock()
	switch {
	case count >= refusalsAllowed:
		f.refuse(ctx, m)
	case !refused && status.GetRefusedLogin() != nil:
		f.forgive(ctx, name)
		f.mu.Lock()
		had.seen.refusals = 0
		f.mu.Unlock()
	}
}

// refuse puts it on record that the machine's BMC refuses its login.
func (f *Fleet) refuse(ctx context.Context, m *pb.Machine) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	name := m.GetMetadata().GetName()
	login, err := f.login(ctx, m)
	if err == nil {
		login.Time = timestamppb.New(f.cfg.Now())
		err = f.Record(ctx, name, func(s *pb.BMCStatus) {
			if s.GetRefusedLogin().GetDigest() != login.Digest {
				s.RefusedLogin = login
			}
		})
	}
	f.warn("recording that a BMC refuses its login", name, err)
}

// forgive forgets that the machine's BMC has refused its login.
func (f *Fleet) forgive(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	f.warn("recording the login of a BMC", name, f.Record(ctx, name, func(s *pb.BMCStatus) { s.RefusedLogin = nil }))
}

func (f *Fleet) warn(what, name string, err error) {
	if err != nil && !errors.Is(err, store.ErrClosed) && !errors.Is(err, store.ErrNotFound) {
		f.cfg.Logger.Warn(what, "machine", name, "err", err)
	}
}

// reconsider has a login tried again that isn't the one that was refused any more.
func (f *Fleet) reconsider(ctx context.Context, m *pb.Machine) {
	refused := m.GetStatus().GetBmc().GetRefusedLogin()
	if refused == nil || m.GetSpec().GetBmc().GetAddress() == "" {
		return
	}
	if login, err := f.login(ctx, m); err != nil || login.GetDigest() == refused.GetDigest() {
		return
	}
	name := m.GetMetadata().GetName()
	f.forgive(ctx, name)
	f.mu.Lock()
	defer f.mu.Unlock()
	if had := f.members[name]; had != nil {
		had.next = f.cfg.Now()
		f.wakePoller()
	}
}

// followSecrets reconsiders the refused logins of a Secret that changes, until
// ctx is done.
func (f *Fleet) followSecrets(ctx context.Context) error {
	return resource.Follow(ctx, f.cfg.DB, func(s *pb.Secret) {
		for _, m := range f.refusedBy(s.GetMetadata().GetName()) {
			f.reconsider(ctx, m)
		}
	}, func(string) {}, func() {})
}

// refusedBy returns the machines with a refused login that is a Secret's.
func (f *Fleet) refusedBy(secret string) (out []*pb.Machine) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.members {
		if m.machine.GetStatus().GetBmc().GetRefusedLogin() != nil && m.machine.GetSpec().GetBmc().GetPasswordSecret() == secret {
			out = append(out, m.machine)
		}
	}
	return out
}
