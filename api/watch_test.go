package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/bedplate/bedplate/event"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store/bolt"
)

// watching reads a watch as short lines: `ADDED web-1`.
type watching struct {
	t      testing.TB
	stream grpc.ServerStreamingClient[pb.WatchMachinesResponse]
	// last is the newest resource_version.
	last int64
}

func (r *rig) watch(req *pb.WatchMachinesRequest) *watching {
	r.t.Helper()
	stream, err := r.machines().WatchMachines(r.ctx(), req)
	if err != nil {
		r.t.Fatal(err)
	}
	return &watching{t: r.t, stream: stream}
}

func (w *watching) want(lines ...string) {
	w.t.Helper()
	var got []string
	for range lines {
		msg, err := w.stream.Recv()
		if err != nil {
			w.t.Fatalf("after %v: %v", got, err)
		}
		w.last = msg.GetResourceVersion()
		got = append(got, strings.TrimSpace(msg.GetType().String()+" "+msg.GetMachine().GetMetadata().GetName()))
		if msg.GetType() != pb.ChangeType_SYNCED && msg.GetMachine().GetMetadata().GetResourceVersion() == 0 {
			w.t.Errorf("%v has no version", msg)
		}
	}
	if diff := cmp.Diff(lines, got); diff != "" {
		w.t.Errorf("watch (-want +got):\n%s", diff)
	}
}

func TestWatch(t *testing.T) {
	r := newRig(t)
	ctx := r.ctx()
	labelled := func(name string, n int, labels map[string]string) *pb.Machine {
		m := testMachine(name, fmt.Sprintf("52:54:00:77:00:%02x", n), "")
		m.Metadata.Labels = labels
		return m
	}
	r1 := map[string]string{"rack": "r1"}
	r.createMachine(labelled("a", 1, r1))
	r.createMachine(labelled("b", 2, nil))
	all, some, one := r.watch(&pb.WatchMachinesRequest{}), r.watch(&pb.WatchMachinesRequest{LabelSelector: "rack=r1"}), r.watch(&pb.WatchMachinesRequest{Name: "b"})
	all.want("ADDED a", "ADDED b", "SYNCED")
	some.want("ADDED a", "SYNCED")
	one.want("ADDED b", "SYNCED")
	from := all.last

	update := func(m *pb.Machine) {
		t.Helper()
		if _, err := r.machines().UpdateMachine(ctx, &pb.UpdateMachineRequest{Machine: m}); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(name string) {
		t.Helper()
		if _, err := r.machines().DeleteMachine(ctx, &pb.DeleteMachineRequest{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	r.createMachine(labelled("bb", 3, r1))
	update(labelled("b", 2, r1))
	update(labelled("a", 1, nil))
	remove("b")
	remove("a")
	all.want("ADDED bb", "MODIFIED b", "MODIFIED a", "DELETED b", "DELETED a")
	some.want("ADDED bb", "ADDED b", "DELETED a", "DELETED b")
	one.want("MODIFIED b", "DELETED b")

	t.Run("goes on from a version", func(t *testing.T) {
		again := r.watch(&pb.WatchMachinesRequest{ResourceVersion: from})
		again.want("SYNCED", "ADDED bb", "MODIFIED b", "MODIFIED a", "DELETED b", "DELETED a")
	})
	t.Run("goes on from a list's version", func(t *testing.T) {
		list, err := r.machines().ListMachines(ctx, &pb.ListMachinesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		w := r.watch(&pb.WatchMachinesRequest{ResourceVersion: list.GetResourceVersion()})
		r.createMachine(labelled("c", 4, nil))
		w.want("SYNCED", "ADDED c")
	})
	t.Run("wrong requests name the field", func(t *testing.T) {
		for field, req := range map[string]*pb.WatchMachinesRequest{
			"name": {Name: "../x"}, "label_selector": {LabelSelector: "a in b"}, "resource_version": {ResourceVersion: -1},
		} {
			_, err := r.watch(req).stream.Recv()
			wantField(t, err, field)
		}
	})
	t.Run("many resources come in pages without a gap", func(t *testing.T) {
		for i := range watchPage + 10 {
			m := testMachine(fmt.Sprintf("many-%04d", i), fmt.Sprintf("52:54:01:00:%02x:%02x", i/256, i%256), "")
			if _, err := resource.Create(ctx, r.db, m); err != nil {
				t.Fatal(err)
			}
		}
		w := r.watch(&pb.WatchMachinesRequest{})
		seen := 0
		for {
			msg, err := w.stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if msg.GetType() == pb.ChangeType_SYNCED {
				break
			}
			seen++
		}
		if seen != watchPage+12 {
			t.Errorf("%d machines, want %d", seen, watchPage+12)
		}
	})
}

func TestWatch_Compacted(t *testing.T) {
	st, err := bolt.Open(t.TempDir()+"/s.db", bolt.Options{HistoryBatches: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close() //nolint:errcheck // nothing is written any more
	r := newRig(t)
	db := &resource.DB{Store: st, Now: r.clock, NewUID: r.db.NewUID}
	for i := range 20 {
		if _, err := resource.Create(t.Context(), db, testMachine(fmt.Sprintf("m-%d", i), "52:54:00:77:00:01", "")); err != nil {
			t.Fatal(err)
		}
	}
	cfg := r.api.cfg
	cfg.DB, cfg.Registerer = db, nil
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // it has no port
	api := newMachineAPI(s)
	err = api.watch(t.Context(), &pb.WatchMachinesRequest{ResourceVersion: 1}, func(pb.ChangeType, *pb.Machine, int64) error { return nil })
	wantCode(t, statusOf(err).Err(), codes.OutOfRange, "list again")
}

func TestEvents(t *testing.T) {
	r := newRig(t)
	ctx := r.ctx()
	events := pb.NewEventServiceClient(r.conn)
	stream, err := events.WatchEvents(ctx, &pb.WatchEventsRequest{SubjectKind: "machine"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	for i := range 7 {
		r.createMachine(testMachine(fmt.Sprintf("m-%d", i), fmt.Sprintf("52:54:00:77:00:%02x", i), ""))
		if err := r.api.cfg.Events.Append(ctx, event.Entry{Kind: "Network", Name: "lan", Reason: "Seen"}); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("newest first, by pages and subject", func(t *testing.T) {
		var got []string
		req := &pb.ListEventsRequest{PageSize: 3, SubjectKind: "machines"}
		for {
			out, err := events.ListEvents(ctx, req)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range out.GetEvents() {
				got = append(got, e.GetSubjectName())
			}
			if req.PageToken = out.GetNextPageToken(); req.PageToken == "" {
				break
			}
		}
		if diff := cmp.Diff([]string{"m-6", "m-5", "m-4", "m-3", "m-2", "m-1", "m-0"}, got); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
	t.Run("as they happen", func(t *testing.T) {
		for i := range 7 {
			msg, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if got, want := msg.GetEvent().GetSubjectName(), fmt.Sprintf("m-%d", i); got != want {
				t.Errorf("event %d is about %s, want %s", i, got, want)
			}
		}
	})
	t.Run("an unknown kind is refused", func(t *testing.T) {
		_, err := events.ListEvents(ctx, &pb.ListEventsRequest{SubjectKind: "robot"})
		wantField(t, err, "subject_kind")
	})
}

func FuzzParsePageToken(f *testing.F) {
	f.Add(pageToken{List: "machines?", After: "web-1", Revision: 7}.encode())
	f.Add("e30") // {}
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := parsePageToken(text, "machines?")
		if err != nil {
			wantField(t, err, "page_token")
			return
		}
		again, err := parsePageToken(token.encode(), "machines?")
		if text != "" && (err != nil || again != token) {
			t.Errorf("%+v is read back as %+v, %v", token, again, err)
		}
	})
}

// get makes a REST call; the caller closes the body.
func (r *rig) get(token, path string) (*http.Response, error) {
	return r.call(token, http.MethodGet, path, "")
}

func (r *rig) call(token, method, path, body string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(context.WithoutCancel(r.t.Context()), method, r.url+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body == "" {
		req.Body, req.ContentLength = nil, 0
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return r.http.Do(req)
}

// rest makes a REST call and returns status and decoded answer.
func (r *rig) rest(method, path, body string) (int, map[string]any) {
	r.t.Helper()
	resp, err := r.call(r.admin, method, path, body)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(data, &out); err != nil {
		r.t.Fatalf("%s %s: %v in %q", method, path, err, data)
	}
	return resp.StatusCode, out
}

const restMachine = `{"metadata": {"name": "web-1", "labels": {"rack": "r1"}}, "spec": {"interfaces": [{"mac": "52:54:00:77:00:01"}]}}`

func TestREST(t *testing.T) {
	r := newRig(t)
	t.Run("creates, reads, updates, lists and deletes", func(t *testing.T) {
		code, out := r.rest("POST", "/v1/machines?request_id=a", restMachine)
		if code != 200 || out["metadata"].(map[string]any)["resource_version"] == "" {
			t.Fatalf("create = %d %v", code, out)
		}
		version := out["metadata"].(map[string]any)["resource_version"]
		if code, again := r.rest("POST", "/v1/machines?request_id=a", restMachine); code != 200 || cmp.Diff(out, again) != "" {
			t.Errorf("again = %d %v", code, again)
		}
		if code, got := r.rest("GET", "/v1/machines/web-1", ""); code != 200 || cmp.Diff(out, got) != "" {
			t.Errorf("get = %d %v", code, got)
		}
		body := strings.Replace(restMachine, `"name"`, fmt.Sprintf(`"resource_version": %q, "name"`, version), 1)
		if code, got := r.rest("PUT", "/v1/machines/web-1", strings.Replace(body, `"r1"`, `"r2"`, 1)); code != 200 {
			t.Errorf("update = %d %v", code, got)
		}
		if code, got := r.rest("PUT", "/v1/machines/web-1", body); code != 409 || !strings.Contains(fmt.Sprint(got["message"]), "get it again") {
			t.Errorf("stale update = %d %v", code, got)
		}
		if code, got := r.rest("GET", "/v1/machines?label_selector=rack%3Dr2", ""); code != 200 || len(got["machines"].([]any)) != 1 {
			t.Errorf("list = %d %v", code, got)
		}
		if code, got := r.rest("GET", "/v1/machines/web-1:explain", ""); code != 200 || got["summary"] != "web-1 waits" {
			t.Errorf("explain = %d %v", code, got)
		}
		if code, got := r.rest("DELETE", "/v1/machines/web-1", ""); code != 200 {
			t.Errorf("delete = %d %v", code, got)
		}
		if code, got := r.rest("GET", "/v1/machines/web-1", ""); code != 404 {
			t.Errorf("get = %d %v", code, got)
		}
	})
	t.Run("field errors are the same as by gRPC", func(t *testing.T) {
		code, out := r.rest("POST", "/v1/machines", strings.Replace(restMachine, ":01", ":zz", 1))
		if code != 400 {
			t.Fatalf("answer = %d %v", code, out)
		}
		detail := out["details"].([]any)[0].(map[string]any)
		violation := detail["field_violations"].([]any)[0].(map[string]any)
		if detail["@type"] != "type.googleapis.com/google.rpc.BadRequest" || violation["field"] != "spec.interfaces[0].mac" {
			t.Errorf("details = %v", detail)
		}
	})
	t.Run("a field that there isn't is refused", func(t *testing.T) {
		code, out := r.rest("POST", "/v1/machines", strings.Replace(restMachine, `"mac"`, `"mack"`, 1))
		if code != 400 || !strings.Contains(fmt.Sprint(out["message"]), "mack") {
			t.Errorf("answer = %d %v", code, out)
		}
	})
	t.Run("what is no part of the API says where it is described", func(t *testing.T) {
		code, out := r.rest("GET", "/favicon.ico", "")
		if code != 404 || !strings.Contains(fmt.Sprint(out["message"]), "/openapi.json") {
			t.Errorf("answer = %d %v", code, out)
		}
	})
	t.Run("needs a token", func(t *testing.T) {
		for _, path := range []string{"/v1/machines", "/v1/machines:watch", "/v1/server"} {
			resp, err := r.get("", path)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != 401 {
				t.Errorf("%s: status %d, want 401", path, resp.StatusCode)
			}
		}
	})
	t.Run("a body that is too large is refused", func(t *testing.T) {
		resp, err := r.call(r.admin, "POST", "/v1/machines", strings.Repeat("x", maxMessageBytes+1))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 400 {
			t.Errorf("status = %d", resp.StatusCode)
		}
	})
	t.Run("the penalty counts the client, not the gateway", func(t *testing.T) {
		for range failureBurst + 1 {
			resp, err := r.get("wrong", "/v1/machines")
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
		}
		_, err := r.machines().ListMachines(r.as("wrong"), &pb.ListMachinesRequest{})
		wantCode(t, err, codes.ResourceExhausted)
	})
	t.Run("the description has every path", func(t *testing.T) {
		code, out := r.rest("GET", "/openapi.json", "")
		paths, _ := out["paths"].(map[string]any)
		if code != 200 || paths["/v1/machines/{name}"] == nil || paths["/v1/server"] == nil {
			t.Errorf("answer = %d with %d paths", code, len(paths))
		}
	})
}

func TestREST_Watch(t *testing.T) {
	r := newRig(t)
	r.createMachine(testMachine("web-1", "52:54:00:77:00:01", ""))
	for _, proto := range []string{"HTTP/2", "HTTP/1.1"} {
		t.Run("over "+proto+" one JSON object a line", func(t *testing.T) {
			transport := r.http.Transport.(*http.Transport).Clone()
			defer transport.CloseIdleConnections()
			if proto == "HTTP/1.1" {
				transport.Protocols = new(http.Protocols)
				transport.Protocols.SetHTTP1(true)
				transport.TLSClientConfig.NextProtos = []string{"http/1.1"}
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"/v1/machines:watch", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+r.admin)
			resp, err := transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			if !strings.HasPrefix(resp.Proto, proto) {
				t.Fatalf("protocol = %s", resp.Proto)
			}
			lines := bufio.NewScanner(resp.Body)
			next := func() string {
				if !lines.Scan() {
					t.Fatalf("stream ended: %v", lines.Err())
				}
				var msg struct {
					Result struct {
						Type    string
						Machine struct{ Metadata struct{ Name string } }
					}
				}
				if err := json.Unmarshal(lines.Bytes(), &msg); err != nil {
					t.Fatalf("%v in %q", err, lines.Text())
				}
				return strings.TrimSpace(msg.Result.Type + " " + msg.Result.Machine.Metadata.Name)
			}
			if got := []string{next(), next()}; got[0] != "ADDED web-1" || got[1] != "SYNCED" {
				t.Errorf("lines = %v", got)
			}
			if _, err := resource.Update(t.Context(), r.db, "web-1", func(m *pb.Machine) error {
				m.Spec.Rack = proto
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if got := next(); got != "MODIFIED web-1" {
				t.Errorf("line = %q", got)
			}
		})
	}
}
