package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/bmc"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// passwordLength is what every BMC takes: IPMI 2.0 allows 20 bytes, IPMI 1.5,
// which some still follow in their password fields, 16 (§22.30).
const passwordLength = 16

// The characters of generated passwords: of each kind that BMCs' rules ask for
// some, without those that look alike or mean something to a shell or URL.
var passwordAlphabets = []string{"ABCDEFGHJKLMNPQRSTUVWXYZ", "abcdefghijkmnopqrstuvwxyz", "23456789", "-_."}

// generate returns a password with a character of each kind.
func generate(rand io.Reader) (string, error) {
	all := ""
	for _, a := range passwordAlphabets {
		all += a
	}
	out := make([]byte, passwordLength)
	for i := range out {
		from := all
		if i < len(passwordAlphabets) {
			from = passwordAlphabets[i]
		}
		n, err := draw(rand, len(from))
		if err != nil {
			return "", err
		}
		out[i] = from[n]
	}
	// Some BMCs refuse a password that begins with a sign; the first stays a letter.
	for i := len(out) - 1; i > 1; i-- {
		n, err := draw(rand, i)
		if err != nil {
			return "", err
		}
		out[i], out[1+n] = out[1+n], out[i]
	}
	return string(out), nil
}

// draw returns a number from 0 to below n, each as likely.
func draw(rand io.Reader, n int) (int, error) {
	var b [1]byte
	limit := 256 - 256%n
	for range 1000 {
		if _, err := io.ReadFull(rand, b[:]); err != nil {
			return 0, fmt.Errorf("making a password: %w", err)
		}
		if int(b[0]) < limit {
			return int(b[0]) % n, nil
		}
	}
	return 0, errors.New("making a password: the source of randomness repeats itself")
}

// RotatePassword gives the BMC's account a generated password: durable before
// the BMC is told, in force when a login with it has succeeded. Called again
// after a crash it finds out how far it came.
func (f *Fleet) RotatePassword(ctx context.Context, m *pb.Machine) error {
	name := m.GetMetadata().GetName()
	if m.GetSpec().GetBmc().GetUsername() == "" {
		return fmt.Errorf("machine/%s: its BMC has no user name: set spec.bmc.username", name)
	}
	if err := f.refusal(ctx, m); err != nil {
		return err
	}
	if !f.vault.begin(name) {
		return fmt.Errorf("machine/%s: %w", name, errRotating)
	}
	defer f.vault.end(name)
	r := f.vault.find(m)
	if r.Pending != "" {
		wanted := r.Pending
		var err error
		if r, err = f.settle(ctx, m, r); err != nil || r.Current == wanted {
			return err
		}
	}
	next, err := generate(f.cfg.Rand)
	if err != nil {
		return err
	}
	old, err := f.targetWith(ctx, m, r.Current)
	if err != nil {
		return err
	}
	r.Address, r.Pending = old.Address, next
	if err := f.vault.put(ctx, name, r); err != nil {
		return err
	}
	err = f.pool.SetPassword(ctx, old, next)
	if !errors.Is(err, bmc.ErrPasswordUnknown) {
		f.noteLogin(ctx, m, err == nil, err)
	}
	switch {
	case err == nil:
		r.Current, r.Pending = next, ""
		return f.commitPassword(ctx, name, r)
	case errors.Is(err, bmc.ErrPasswordUnknown), ctx.Err() != nil:
		return err // both are kept, and settled by the next call
	}
	r.Pending = ""
	return errors.Join(err, f.vault.put(ctx, name, r))
}

// settle finds out which of two passwords a BMC has. The caller has claimed it.
func (f *Fleet) settle(ctx context.Context, m *pb.Machine, r record) (record, error) {
	name := m.GetMetadata().GetName()
	works, err := f.logsIn(ctx, m, r.Pending)
	if err != nil {
		return r, err
	}
	if works {
		r.Current, r.Pending = r.Pending, ""
		return r, f.commitPassword(ctx, name, r)
	}
	if works, err = f.logsIn(ctx, m, r.Current); err != nil {
		return r, err
	}
	if !works {
		return r, fmt.Errorf("machine/%s: neither the BMC's old password nor the one that it was being given is accepted: reset its account by hand, then `bedplate machine bmc trust %s --password`: %w", name, name, bmc.ErrAuth)
	}
	r.Pending = ""
	return r, f.vault.put(ctx, name, r)
}

// logsIn tries a password. An error means that it could not be found out.
func (f *Fleet) logsIn(ctx context.Context, m *pb.Machine, password string) (bool, error) {
	t, err := f.targetWith(ctx, m, password)
	if err != nil {
		return false, err
	}
	err = f.pool.Do(ctx, t, func(ctx context.Context, c *bmc.Client) error {
		_, err := c.PowerState(ctx)
		return err
	})
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, bmc.ErrAuth) && !errors.Is(err, bmc.ErrCircuitOpen):
		return false, nil
	}
	return false, err
}

// commitPassword stores that a password is in force, with the time of it on
// the machine, in one Txn.
func (f *Fleet) commitPassword(ctx context.Context, name string, r record) error {
	r.Time = f.cfg.Now()
	op, err := f.vault.op(name, r)
	if err != nil {
		return err
	}
	for range recordAttempts {
		m, err := resource.Get[*pb.Machine](ctx, f.cfg.DB, name)
		if errors.Is(err, store.ErrNotFound) {
			return f.vault.put(ctx, name, r)
		}
		if err != nil {
			return err
		}
		next := withBMC(m)
		next.Status.Bmc.PasswordTime = timestamppb.New(r.Time)
		resource.Stamp(f.cfg.DB, next)
		_, err = f.cfg.DB.Store.Txn(ctx, []store.Compare{resource.Unchanged(m)}, []store.Op{resource.Put(next), op,
			f.cfg.Event("Machine", name, "PasswordChanged", "its BMC has a password that only this server knows", false)})
		if err == nil {
			f.vault.kept(name, r)
			return nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return fmt.Errorf("keeping the BMC password of machine %s: %w", name, err)
		}
	}
	return fmt.Errorf("keeping the BMC password of machine %s: %w", name, store.ErrConflict)
}

// ForgetPassword makes the Secret's password the one that counts again: a
// person has set the BMC's account back to it.
func (f *Fleet) ForgetPassword(ctx context.Context, name string) error {
	m, err := f.Machine(name)
	if err != nil {
		return err
	}
	if !f.vault.begin(name) {
		return fmt.Errorf("machine/%s: %w", name, errRotating)
	}
	defer f.vault.end(name)
	if err := f.vault.put(ctx, name, record{Address: m.GetSpec().GetBmc().GetAddress(), Time: f.cfg.Now()}); err != nil {
		return err
	}
	return f.Record(ctx, name, func(s *pb.BMCStatus) { s.PasswordTime = nil })
}

// recordAttempts bounds how often a machine is read again after somebody else was faster.
const recordAttempts = 64

// withBMC returns a copy of m that has a status of its BMC.
func withBMC(m *pb.Machine) *pb.Machine {
	next := proto.Clone(m).(*pb.Machine)
	if next.Status == nil {
		next.Status = &pb.MachineStatus{}
	}
	if next.Status.Bmc == nil {
		next.Status.Bmc = &pb.BMCStatus{}
	}
	return next
}
