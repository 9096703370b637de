package redfish

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/bedplate/bedplate/bmc"
)

// FuzzDriver has every resource of a service be the same bytes: whatever they
// are, each call ends, without a panic, within few requests.
func FuzzDriver(f *testing.F) {
	for _, s := range []string{
		// A system whose collections are itself, so that links lead in circles.
		`{"@odata.id":"/x","RedfishVersion":"1.0.0","Systems":{"@odata.id":"/x"},"Managers":{"@odata.id":"/x"},"Chassis":{"@odata.id":"/x"},"Members":[{"@odata.id":"/x"}],"Members@odata.nextLink":"/x","Processors":{"@odata.id":"/x"},"Memory":{"@odata.id":"/x"},"Storage":{"@odata.id":"/x"},"Drives":[{"@odata.id":"/x"}],"EthernetInterfaces":{"@odata.id":"/x"},"LogServices":{"@odata.id":"/x"},"Entries":{"@odata.id":"/x"},"Bios":{"@odata.id":"/x"},"VirtualMedia":{"@odata.id":"/x"},"UpdateService":{"@odata.id":"/x"},"FirmwareInventory":{"@odata.id":"/x"},"AccountService":{"@odata.id":"/x"},"Accounts":{"@odata.id":"/x"},"Links":{"Chassis":[{"@odata.id":"/x"}],"ManagedBy":[{"@odata.id":"/x"}]}}`,
		`{"Systems":{"@odata.id":"/x"},"Members":[{"Id":1},{"@odata.id":2},{"@odata.id":""},null,"x",[]]}`,
		`{"RedfishVersion":"1","PowerState":5,"UUID":"zz","Boot":{"BootSourceOverrideTarget":[1]},"MemorySummary":{"TotalSystemMemoryGiB":1e300},"CapacityBytes":-1}`,
		`{"error":{"@Message.ExtendedInfo":[{"MessageId":"Base.1.0.X","Message":"\u0000\u001b[2J"}]}}`,
		`[]`, `null`, `"`, ``, `{"Attributes":{"A":1,"B":true,"C":null,"D":"x","E":{}}}`,
	} {
		f.Add(200, []byte(s))
	}
	f.Add(400, []byte(`{"error":{"code":1}}`))
	f.Add(202, []byte(`{"@odata.type":"#Task.v1","@odata.id":"/t","TaskState":"Running","PercentComplete":900}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if status < 200 || status > 599 || status == http.StatusUnauthorized {
			status = 200
		}
		s := run(t, status, body)
		if s.requests > 4*maxRequests {
			t.Errorf("%d requests were made", s.requests)
		}
	})
}

// run makes every call against a service that answers alike.
func run(t *testing.T, status int, body []byte) *same {
	t.Helper()
	s := &same{status: status, body: string(body)}
	tr, err := newTransport(bmc.Target{Address: "192.0.2.1", Username: "admin", Password: "s3cret-password"}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	d := &Driver{Lacking: bmc.Lacking{Driver: Name}, client: newClient(tr)}
	d.http = &http.Client{Transport: s, CheckRedirect: checkRedirect}
	_, _ = d.get(t.Context(), rootPath, &d.root)
	everything(t.Context(), d)
	return s
}

// everything reads all that there is to read.
func everything(ctx context.Context, d *Driver) {
	_, _ = d.PowerState(ctx)
	_, _ = d.BootOverride(ctx)
	_, _ = d.Media(ctx)
	_, _ = d.Identity(ctx)
	_, _ = d.Inventory(ctx)
	_, _ = d.Sensors(ctx)
	_, _ = d.Health(ctx)
	_, _ = d.EventLog(ctx, 10)
	_, _ = d.Firmware(ctx)
	_, _ = d.Task(ctx, "1")
	_, _ = d.BIOSSettings(ctx)
	_, _ = d.SecureBoot(ctx)
	_, _ = d.Users(ctx)
	_, _ = d.ManagerInfo(ctx)
	_ = d.RequestPower(ctx, bmc.ActionOn)
	_ = d.RequestBoot(ctx, bmc.BootOverride{Device: bmc.BootNetwork, Mode: bmc.ModeUEFI})
	_ = d.RequestInsert(ctx, bmc.MediaCD, "http://192.0.2.9/x.iso")
	_ = d.RequestBIOS(ctx, map[string]string{"A": "1"})
	_, _ = d.UpdateFirmware(ctx, bmc.FirmwareUpdate{URI: "http://192.0.2.9/x.bin"})
}

// same answers every request alike.
type same struct {
	status   int
	body     string
	requests int
}

func (s *same) RoundTrip(req *http.Request) (*http.Response, error) {
	s.requests++
	return &http.Response{
		StatusCode: s.status, Header: http.Header{"Etag": {`W/"1"`}, "Location": {"/redfish/v1/TaskService/Tasks/1/Monitor"}},
		Body: io.NopCloser(strings.NewReader(s.body)), Request: req, ProtoMajor: 1, ProtoMinor: 1,
	}, nil
}
