package api

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// fieldError returns the error for one wrong field of a resource or request.
func fieldError(path, format string, args ...any) error {
	return fieldErrors([]resource.FieldError{{Path: path, Message: fmt.Sprintf(format, args...)}})
}

// fieldErrors returns INVALID_ARGUMENT with every wrong field in it.
func fieldErrors(fields []resource.FieldError) error {
	bad := &errdetails.BadRequest{}
	text := make([]string, len(fields))
	for i, f := range fields {
		text[i] = f.Error()
		bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: f.Path, Description: f.Message})
	}
	st := status.New(codes.InvalidArgument, strings.Join(text, "; "))
	if detailed, err := st.WithDetails(bad); err == nil {
		st = detailed
	}
	return st.Err()
}

// refused is the error of a call that the state of things doesn't allow now.
func refused(format string, args ...any) error {
	return status.Errorf(codes.FailedPrecondition, format, args...)
}

// unavailable is the error for a part of the server that isn't there.
func unavailable(what string) error {
	return status.Errorf(codes.Unimplemented, "this server runs without %s", what)
}

// hookError passes on what another service said. What is neither a status nor
// one of the store's errors is its way of saying no: a workflow that has
// ended, a wrong digest.
func hookError(err error) error {
	if err == nil {
		return nil
	}
	if code := statusOf(err).Code(); code != codes.Internal {
		return err
	}
	return status.Error(codes.FailedPrecondition, err.Error())
}

// statusOf finds the status for an error of this module. What it doesn't know
// is Internal.
func statusOf(err error) *status.Status {
	var fields *resource.FieldErrors
	if errors.As(err, &fields) {
		return status.Convert(fieldErrors(fields.Errors))
	}
	if st, ok := status.FromError(err); ok {
		return st
	}
	for _, known := range []struct {
		is   error
		code codes.Code
		hint string
	}{
		{resource.ErrExists, codes.AlreadyExists, ": choose another name, or update it"},
		{resource.ErrName, codes.InvalidArgument, ""},
		{store.ErrNotFound, codes.NotFound, ""},
		{store.ErrConflict, codes.Aborted, ": get it again, make the change to that, and send it again"},
		{store.ErrCompacted, codes.OutOfRange, ": list again, and watch from the list's resource_version"},
		{store.ErrTooLarge, codes.InvalidArgument, ": a resource has at most 1 MiB"},
		{store.ErrClosed, codes.Unavailable, ": the server is stopping; try again"},
		{context.DeadlineExceeded, codes.DeadlineExceeded, ""},
		{context.Canceled, codes.Canceled, ""},
	} {
		if errors.Is(err, known.is) {
			return status.New(known.code, err.Error()+known.hint+listHint(known.code, err))
		}
	}
	return status.New(codes.Internal, "internal error: the server's log has more")
}

// listHint says where to look for the right name of what wasn't found.
func listHint(code codes.Code, err error) string {
	singular, _, _ := strings.Cut(err.Error(), "/")
	kind, ok := resource.KindNamed(singular)
	if code != codes.NotFound || !ok {
		return ""
	}
	return fmt.Sprintf(": `bedplate get %s` lists those that there are", kind.Plural)
}
