package fleet

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bedplate/bedplate/bmc"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// secret stores a Secret as the API would, so that its version and the watch are real.
func (r *room) secret(name, password string) {
	r.t.Helper()
	r.mu.Lock() // The watch tells the fleet at once, which must find password and version.
	defer r.mu.Unlock()
	r.secrets[name] = map[string]string{"password": password}
	_, err := resource.Get[*pb.Secret](r.t.Context(), r.db, name)
	var s *pb.Secret
	if err != nil {
		s, err = resource.Create(r.t.Context(), r.db, &pb.Secret{Metadata: &pb.Metadata{Name: name}})
	} else {
		s, err = resource.Update(r.t.Context(), r.db, name, func(s *pb.Secret) error {
			s.Status = &pb.SecretStatus{Sealed: []byte(password)}
			return nil
		})
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.versions[name] = s.Metadata.ResourceVersion
}

func TestFleet_RefusedLogin(t *testing.T) {
	wrong := func(t *testing.T, r *room) (logins func() int) {
		r.secret("bmc", "mistyped")
		f := r.machine("web-1")
		return func() int { n, _, _, _ := f.Counts(); return n }
	}
	refused := func(r *room) *pb.RefusedLogin { return r.get("web-1").GetStatus().GetBmc().GetRefusedLogin() }

	t.Run("a password that was refused twice is not tried again, by polls, calls or a server that restarts", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *room) {
			logins := wrong(t, r)
			stop := r.start()
			time.Sleep(24 * time.Hour)
			for range 20 {
				err := r.fleet.Do(t.Context(), r.get("web-1"), ask)
				if !errors.Is(err, bmc.ErrAuth) || !errors.As(err, new(*RefusedError)) {
					t.Fatalf("err = %v", err)
				}
			}
			if _, err := r.fleet.Console(t.Context(), "web-1"); !errors.As(err, new(*RefusedError)) {
				t.Errorf("a console: %v", err)
			}
			stop()
			defer r.start()()
			time.Sleep(24 * time.Hour)
			synctest.Wait()
			if n := logins(); n != refusalsAllowed {
				t.Errorf("%d logins with a wrong password in two days, want %d", n, refusalsAllowed)
			}
			if at := r.get("web-1").Status.Bmc.GetContactTime(); at != nil {
				t.Errorf("a BMC that never let anybody in was in contact at %s", at.AsTime())
			}
			advice := strings.Join(r.fleet.Explain("web-1").Advice, "\n")
			if !strings.Contains(advice, "user root with secret/bmc version") || !strings.Contains(advice, "bmc status web-1 --retry") || strings.Contains(advice, "mistyped") {
				t.Errorf("explain says %q", advice)
			}
		})
	})
	t.Run("a corrected Secret is tried at once, also where nothing is polled", func(t *testing.T) {
		for name, interval := range map[string]time.Duration{"polled": 0, "not polled": -1} {
			t.Run(name, func(t *testing.T) {
				inBubble(t, func(t *testing.T, r *room) {
					wrong(t, r)
					defer r.start(func(c *Config) { c.PollInterval = interval })()
					for range refusalsAllowed {
						_ = r.fleet.Do(t.Context(), r.get("web-1"), ask)
					}
					if refused(r) == nil {
						t.Fatal("it is not on record that the login is refused")
					}
					r.secret("bmc", "secret")
					synctest.Wait()
					if refused(r) != nil {
						t.Error("the refused login is still on record")
					}
					if err := r.fleet.Do(t.Context(), r.get("web-1"), ask); err != nil {
						t.Error(err)
					}
				})
			})
		}
	})
	t.Run("so is another user", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *room) {
			wrong(t, r)
			defer r.start(func(c *Config) { c.PollInterval = -1 })()
			for range refusalsAllowed {
				_ = r.fleet.Do(t.Context(), r.get("web-1"), ask)
			}
			if _, err := resource.Update(t.Context(), r.db, "web-1", func(m *pb.Machine) error { m.Spec.Bmc.Username = "admin"; return nil }); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if refused(r) != nil {
				t.Error("the refused login is still on record")
			}
		})
	})
	t.Run("a Secret of other BMCs that changes makes no difference", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *room) {
			logins := wrong(t, r)
			r.secret("other", "x")
			defer r.start()()
			time.Sleep(10 * time.Minute)
			r.secret("other", "y")
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if n := logins(); n != refusalsAllowed {
				t.Errorf("%d logins", n)
			}
		})
	})
	t.Run("a person may ask: one more login, and no further ones", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *room) {
			logins := wrong(t, r)
			defer r.start()()
			time.Sleep(10 * time.Minute)
			answer, err := r.fleet.Status(t.Context(), "web-1", true)
			if err != nil || !strings.Contains(answer.GetError(), "refused the login") {
				t.Errorf("status: %v, %v", answer, err)
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			if n := logins(); n != refusalsAllowed+1 {
				t.Errorf("%d logins, want %d", n, refusalsAllowed+1)
			}
			r.mu.Lock()
			r.fakes["web-1.bmc"].ResetPassword("mistyped")
			r.mu.Unlock()
			if answer, err = r.fleet.Status(t.Context(), "web-1", true); err != nil || answer.GetError() != "" {
				t.Errorf("after the account was given the Secret's password: %v, %v", answer.GetError(), err)
			}
			if refused(r) != nil {
				t.Error("the refused login is still on record")
			}
		})
	})
	t.Run("one refusal of a BMC that is starting is forgotten", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *room) {
			r.secret("bmc", "secret")
			f := r.machine("web-1")
			f.ResetPassword("not ready")
			defer r.start(func(c *Config) { c.PollInterval = -1 })()
			once := func(password string, fails bool) {
				f.ResetPassword(password)
				time.Sleep(time.Hour) // an idle session is logged out of
				if err := r.fleet.Do(t.Context(), r.get("web-1"), ask); (err != nil) != fails {
					t.Fatalf("with the BMC's password %s: %v", password, err)
				}
			}
			for range 3 {
				once("not ready", true)
				once("secret", false)
			}
		})
	})
	t.Run("a context that ends is no refusal", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *room) {
			wrong(t, r)
			defer r.start(func(c *Config) { c.PollInterval = -1 })()
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			for range 5 {
				_ = r.fleet.Do(ctx, r.get("web-1"), ask)
			}
			if got := refused(r); got != nil {
				t.Errorf("on record: %v", got)
			}
		})
	})
}
