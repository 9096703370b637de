package ipmi

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/bedplate/bedplate/lab/board"
)

// registerChassis adds the commands about the machine (§28).
func (s *Server) registerChassis(r *handlers.Registry) {
	r.RegisterFunc(types.CommandGetChassisStatus, s.chassisStatus)
	r.RegisterFunc(types.CommandChassisControl, s.needs(bmc.PrivilegeLevelOperator, s.chassisControl))
	r.RegisterFunc(types.CommandChassisIdentify, s.needs(bmc.PrivilegeLevelOperator, s.identify))
	r.RegisterFunc(types.CommandSetSystemBootOptions, s.needs(bmc.PrivilegeLevelOperator, s.setBoot))
	r.RegisterFunc(types.CommandGetSystemBootOptions, s.getBoot)
	r.RegisterFunc(types.CommandGetSystemRestartCause, s.restartCause)
}

// chassisStatus answers Get Chassis Status (table 28-3).
func (s *Server) chassisStatus(context.Context, *handlers.HandlerContext, []byte) ([]byte, types.CompletionCode, error) {
	const restorePrevious, identifySupported = 0x01 << 5, 0x40
	state := byte(restorePrevious)
	if s.board.PowerOn() {
		state |= 0x01
	}
	misc := byte(identifySupported)
	if s.board.Label().LED != "Off" {
		misc |= 0x10
	}
	return []byte{state, 0, misc}, types.CodeOK, nil
}

// controls are the actions of Chassis Control (table 28-4).
var controls = map[byte]board.Action{
	0: board.ForceOff, 1: board.On, 2: board.PowerCycle, 3: board.ForceRestart, 4: board.NMI, 5: board.GracefulShutdown,
}

// answerWithin is how long an action may take before the board answers that it
// has begun. Boards answer at once; clients ask again after a second, which
// must not do everything twice.
const answerWithin = 700 * time.Millisecond

func (s *Server) chassisControl(ctx context.Context, _ *handlers.HandlerContext, request []byte) ([]byte, types.CompletionCode, error) {
	if len(request) < 1 {
		return nil, types.CodeRequestDataLengthInvalid, nil
	}
	action, ok := controls[request[0]&0x0f]
	if !ok {
		return nil, types.CodeRequestDataFieldInvalid, nil
	}
	select {
	case s.power <- struct{}{}:
	default:
		return nil, types.CodeNodeBusy, nil
	}
	done := make(chan error, 1)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		<-s.power
		return nil, types.CodeNodeBusy, nil
	}
	s.work.Go(func() {
		err := s.board.Power(s.life, action)
		if err != nil {
			s.log.Debug("changing the power by IPMI", "action", string(action), "err", err)
		}
		<-s.power
		done <- err
	})
	s.mu.Unlock()
	t := time.NewTimer(answerWithin)
	defer t.Stop()
	select {
	case err := <-done:
		return nil, codeOf(err), nil
	case <-t.C:
	case <-ctx.Done():
	}
	return nil, types.CodeOK, nil
}

// codeOf is the completion code for an error (table 5-2).
func codeOf(err error) types.CompletionCode {
	switch {
	case err == nil:
		return types.CodeOK
	case errors.Is(err, board.ErrOff):
		return types.CodeNotSupported
	case errors.Is(err, board.ErrInvalid):
		return types.CodeRequestDataFieldInvalid
	}
	return types.CodeUnspecifiedError
}

// identify answers Chassis Identify (§28.5): the light stays until it is put out.
func (s *Server) identify(_ context.Context, _ *handlers.HandlerContext, request []byte) ([]byte, types.CompletionCode, error) {
	label := s.board.Label()
	label.LED = "Blinking"
	if len(request) > 1 && request[1]&1 != 0 {
		label.LED = "Lit"
	} else if len(request) > 0 && request[0] == 0 {
		label.LED = "Off"
	}
	return nil, codeOf(s.board.SetLabel(label)), nil
}

// restartCause answers Get System Restart Cause (§28.11): by a chassis control command.
func (s *Server) restartCause(context.Context, *handlers.HandlerContext, []byte) ([]byte, types.CompletionCode, error) {
	return []byte{0x01, lanChannel}, types.CodeOK, nil
}

// Boot option parameters (table 28-14).
const (
	bootInProgress  = 0
	bootPartition   = 1
	bootScan        = 2
	bootValidity    = 3
	bootAcknowledge = 4
	bootFlags       = 5
	bootInitiator   = 6
)

// Bits of the boot flags, first and second byte.
const (
	flagValid      = 0x80
	flagPersistent = 0x40
	flagEFI        = 0x20
)

// devices are boot device selectors (table 28-14, parameter 5, second byte).
// Of those that mean one thing the first is what is shown.
var devices = []struct {
	selector byte
	target   board.Target
}{
	{0, board.BootNone}, {1, board.BootPXE}, {2, board.BootDisk}, {3, board.BootDisk}, {5, board.BootCD}, {6, board.BootBIOSSetup},
	{8, board.BootCD}, {15, board.BootUSB}, {7, board.BootUSB}, {9, board.BootUSB}, {11, board.BootUSB},
}

func (s *Server) setBoot(ctx context.Context, _ *handlers.HandlerContext, request []byte) ([]byte, types.CompletionCode, error) {
	if len(request) < 1 {
		return nil, types.CodeRequestDataLengthInvalid, nil
	}
	parameter, data := request[0]&0x7f, request[1:]
	switch parameter {
	case bootFlags:
		if len(data) < 5 {
			return nil, types.CodeRequestDataLengthInvalid, nil
		}
		return nil, s.setFlags(ctx, data), nil
	case bootInProgress, bootPartition, bootScan, bootValidity, bootAcknowledge, bootInitiator:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.parameters[parameter] = append([]byte(nil), data[:min(len(data), 16)]...)
		return nil, types.CodeOK, nil
	}
	return nil, types.CodeParameterNotSupported, nil
}

func (s *Server) setFlags(ctx context.Context, data []byte) types.CompletionCode {
	o := board.Override{Enabled: board.Disabled, Target: board.BootNone, Mode: s.board.Mode()}
	if data[0]&flagEFI != 0 && o.Mode != board.UEFI {
		return types.CodeRequestDataFieldInvalid
	}
	if data[0]&flagValid != 0 {
		selector := data[1] >> 2 & 0x0f
		at := slices.IndexFunc(devices, func(d struct {
			selector byte
			target   board.Target
		}) bool {
			return d.selector == selector
		})
		if at < 0 {
			return types.CodeRequestDataFieldInvalid
		}
		o.Target, o.Enabled = devices[at].target, board.Once
		if data[0]&flagPersistent != 0 {
			o.Enabled = board.Continuous
		}
	}
	return codeOf(s.board.SetOverride(ctx, o))
}

func (s *Server) getBoot(_ context.Context, _ *handlers.HandlerContext, request []byte) ([]byte, types.CompletionCode, error) {
	if len(request) < 1 {
		return nil, types.CodeRequestDataLengthInvalid, nil
	}
	const parameterVersion = 0x01
	parameter := request[0] & 0x7f
	head := []byte{parameterVersion, parameter}
	if parameter == bootFlags {
		return append(head, s.flags()...), types.CodeOK, nil
	}
	// What each is before it was ever set.
	blank := map[byte]int{bootInProgress: 1, bootPartition: 1, bootScan: 1, bootValidity: 1, bootAcknowledge: 2, bootInitiator: 9}
	n, ok := blank[parameter]
	if !ok {
		return nil, types.CodeParameterNotSupported, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	data := s.parameters[parameter]
	if len(data) != n {
		data = make([]byte, n)
	}
	return append(head, data...), types.CodeOK, nil
}

func (s *Server) flags() []byte {
	o := s.board.Override()
	flags := make([]byte, 5)
	if o.Mode == board.UEFI {
		flags[0] |= flagEFI
	}
	if o.Enabled == board.Disabled {
		return flags
	}
	flags[0] |= flagValid
	if o.Enabled == board.Continuous {
		flags[0] |= flagPersistent
	}
	for _, d := range devices {
		if d.target == o.Target {
			flags[1] = d.selector << 2
			break
		}
	}
	if o.Target == board.BootHTTP { // IPMI has no word for it; it is by the network
		flags[1] = 1 << 2
	}
	return flags
}
