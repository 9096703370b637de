package engine

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

func TestHooks(t *testing.T) {
	var got struct {
		Before  string
		Machine struct{ Metadata struct{ Name string } }
	}
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil || r.Method != http.MethodPost {
			t.Errorf("the hook is sent %s, %v", r.Method, err)
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte("3 pods left\n"))
	}))
	defer server.Close()
	h := newHooks(nil, secrets{})
	m := &pb.Machine{Metadata: &pb.Metadata{Name: "web-1"}}
	for _, tt := range []struct {
		name   string
		status int
		again  bool
		failed bool
	}{
		{"2xx lets it go on", http.StatusNoContent, false, false},
		{"409 asks for time", http.StatusConflict, true, false},
		{"503 asks for time", http.StatusServiceUnavailable, true, false},
		{"403 is a no", http.StatusForbidden, false, true},
		{"a redirect is not followed", http.StatusFound, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status = tt.status
			again, _, err := h.Call(t.Context(), &pb.Hook{Name: "drain", Url: server.URL}, m, "release")
			if again != tt.again || (err != nil) != tt.failed {
				t.Errorf("again %v, err %v", again, err)
			}
			if got.Before != "release" || got.Machine.Metadata.Name != "web-1" {
				t.Errorf("it was sent %+v", got)
			}
		})
	}
	t.Run("a hook that doesn't answer is asked again", func(t *testing.T) {
		if again, message, err := h.Call(t.Context(), &pb.Hook{Url: "http://127.0.0.1:1"}, m, "release"); !again || message == "" || err != nil {
			t.Errorf("again %v, message %q, err %v", again, message, err)
		}
	})
}
