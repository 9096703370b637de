package redfish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"strings"

	"github.com/stmcginnis/gofish/redfish"

	"github.com/bedplate/bedplate/bmc"
)

// updateService is the UpdateService schema.
type updateService struct {
	ServiceEnabled        *bool
	FirmwareInventory     link
	HTTPPushURI           string `json:"HttpPushUri"`
	MultipartHTTPPushURI  string `json:"MultipartHttpPushUri"`
	MaxImageSizeBytes     int64
	HTTPPushURITargetsKey []string `json:"HttpPushUriTargets"`
	Actions               struct {
		SimpleUpdate action `json:"#UpdateService.SimpleUpdate"`
	}
}

func (d *Driver) updateService(ctx context.Context) (*updateService, error) {
	if d.root.UpdateService.Path == "" {
		return nil, d.lacks("firmware")
	}
	var u updateService
	if _, err := d.get(ctx, d.root.UpdateService.Path, &u); err != nil {
		return nil, err
	}
	if u.ServiceEnabled != nil && !*u.ServiceEnabled {
		return nil, d.lacks("firmware (the BMC's update service is disabled)")
	}
	return &u, nil
}

// Firmware reads the firmware inventory.
func (d *Driver) Firmware(ctx context.Context) ([]bmc.FirmwareComponent, error) {
	ctx = withBudget(ctx)
	u, err := d.updateService(ctx)
	if err != nil {
		return nil, err
	}
	if u.FirmwareInventory.Path == "" {
		return nil, d.lacks("firmware inventory")
	}
	type software struct {
		ID         string `json:"Id"`
		Name       string
		Version    string
		Updateable *bool
		Status     status
	}
	var problem error
	all, err := collect[software](ctx, d, u.FirmwareInventory.Path, func(err error) { problem = err })
	var components []bmc.FirmwareComponent
	for _, s := range all {
		if !s.Status.present() {
			continue
		}
		components = append(components, bmc.FirmwareComponent{ID: s.ID, Name: s.Name, Version: s.Version, Updatable: s.Updateable != nil && *s.Updateable})
	}
	if err == nil && len(components) == 0 {
		err = problem
	}
	return components, err
}

// UpdateFirmware has the BMC load an image, or pushes one.
func (d *Driver) UpdateFirmware(ctx context.Context, u bmc.FirmwareUpdate) (bmc.TaskID, error) {
	service, err := d.updateService(ctx)
	if err != nil {
		return "", err
	}
	targets := d.targetPaths(service, u.Targets)
	var a *answer
	switch {
	case u.URI != "":
		a, err = d.simpleUpdate(ctx, service, u.URI, targets)
	case u.Image == nil:
		return "", errors.New("firmware update has neither URI nor image")
	case service.MaxImageSizeBytes > 0 && u.Size > service.MaxImageSizeBytes:
		return "", fmt.Errorf("firmware image has %d bytes, the BMC takes %d at most", u.Size, service.MaxImageSizeBytes)
	case service.MultipartHTTPPushURI != "":
		a, err = d.multipartUpdate(ctx, service.MultipartHTTPPushURI, u, targets)
	case service.HTTPPushURI != "":
		a, err = d.pushUpdate(ctx, service.HTTPPushURI, u)
	default:
		return "", d.lacks("firmware update by upload")
	}
	if err != nil {
		return "", err
	}
	return taskOf(a), nil
}

// targetPaths returns the paths of components; IDs that are paths stay.
func (d *Driver) targetPaths(service *updateService, ids []string) []string {
	var paths []string
	for _, id := range ids {
		if !strings.HasPrefix(id, "/") {
			id = strings.TrimSuffix(service.FirmwareInventory.Path, "/") + "/" + id
		}
		paths = append(paths, id)
	}
	return paths
}

func (d *Driver) simpleUpdate(ctx context.Context, service *updateService, uri string, targets []string) (*answer, error) {
	if service.Actions.SimpleUpdate.Target == "" {
		return nil, d.lacks("firmware update by URL")
	}
	body := map[string]any{"ImageURI": uri}
	if len(targets) > 0 {
		body["Targets"] = targets
	}
	a, err := d.post(ctx, service.Actions.SimpleUpdate.Target, body)
	var refused *Error
	if errors.As(err, &refused) && refused.badRequest() {
		scheme, _, _ := strings.Cut(uri, ":")
		body["TransferProtocol"] = redfish.TransferProtocolType(strings.ToUpper(scheme))
		return d.post(ctx, service.Actions.SimpleUpdate.Target, body)
	}
	return a, err
}

// multipartUpdate pushes an image with parameters (DSP0266 §12.6.2), without
// holding it in memory.
func (d *Driver) multipartUpdate(ctx context.Context, path string, u bmc.FirmwareUpdate, targets []string) (*answer, error) {
	parameters := map[string]any{"@Redfish.OperationApplyTime": "Immediate"}
	if len(targets) > 0 {
		parameters["Targets"] = targets
	}
	head, err := json.Marshal(parameters)
	if err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	form := multipart.NewWriter(w)
	written := make(chan struct{})
	go func() {
		defer close(written)
		_ = w.CloseWithError(writeForm(form, head, u))
	}()
	a, err := d.upload(ctx, path, r, -1, form.FormDataContentType())
	_ = r.Close() // ends the writer, wherever it is
	<-written
	return a, err
}

func writeForm(form *multipart.Writer, parameters []byte, u bmc.FirmwareUpdate) error {
	part, err := form.CreatePart(textproto.MIMEHeader{
		"Content-Disposition": {`form-data; name="UpdateParameters"`},
		"Content-Type":        {"application/json"},
	})
	if err != nil {
		return err
	}
	if _, err := part.Write(parameters); err != nil {
		return err
	}
	if part, err = form.CreateFormFile("UpdateFile", u.Name); err != nil {
		return err
	}
	if _, err := io.Copy(part, u.Image); err != nil {
		return fmt.Errorf("reading firmware image: %w", err)
	}
	return form.Close()
}

// pushUpdate pushes an image as it is.
func (d *Driver) pushUpdate(ctx context.Context, path string, u bmc.FirmwareUpdate) (*answer, error) {
	return d.upload(ctx, path, u.Image, u.Size, "application/octet-stream")
}

// upload sends a long body. Its length is sent where it is known: some BMCs
// don't read chunks.
func (d *Driver) upload(ctx context.Context, path string, body io.Reader, size int64, contentType string) (*answer, error) {
	u, err := d.resolve(path)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(asUpload(ctx), http.MethodPost, u, struct{ io.Reader }{body})
	if err != nil {
		return nil, err
	}
	if size > 0 {
		req.ContentLength = size
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := d.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("uploading firmware: %w", err)
	}
	a, err := readAnswer(resp)
	if err != nil {
		return nil, fmt.Errorf("uploading firmware: %w", err)
	}
	if !a.ok() {
		return nil, fmt.Errorf("uploading firmware: %w", a.asError(d.t.redactor()))
	}
	return a, nil
}
