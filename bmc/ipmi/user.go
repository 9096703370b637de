package ipmi

import (
	"context"
	"fmt"
	"strconv"

	"github.com/bougou/go-ipmi/pkg/command/app"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/bedplate/bedplate/bmc"
)

// privileges are IPMI's words for the roles.
var privileges = map[bmc.Role]types.PrivilegeLevel{
	bmc.RoleAdministrator: types.PrivilegeLevelAdministrator,
	bmc.RoleOperator:      types.PrivilegeLevelOperator,
	bmc.RoleReadOnly:      types.PrivilegeLevelUser,
}

// noAccess is the privilege of a user that may not log in on a channel.
const noAccess = 0x0f

func roleOf(level uint8) bmc.Role {
	switch types.PrivilegeLevel(level) {
	case types.PrivilegeLevelAdministrator, types.PrivilegeLevelOEM:
		return bmc.RoleAdministrator
	case types.PrivilegeLevelOperator:
		return bmc.RoleOperator
	case types.PrivilegeLevelUser, types.PrivilegeLevelCallback:
		return bmc.RoleReadOnly
	}
	return bmc.RoleNone
}

// slots reads every user slot of this channel.
func (d *Driver) slots(ctx context.Context) ([]*app.User, error) {
	return get(ctx, d, "users", func(ctx context.Context) ([]*app.User, error) {
		return d.c.GetUsers(ctx, types.ChannelNumberSelf)
	})
}

// Users lists the slots that have a name.
func (d *Driver) Users(ctx context.Context) ([]bmc.User, error) {
	slots, err := d.slots(ctx)
	if err != nil {
		return nil, err
	}
	var users []bmc.User
	for _, s := range slots {
		if name := clean(s.Name); name != "" {
			users = append(users, bmc.User{
				ID: strconv.Itoa(int(s.ID)), Name: name, Role: roleOf(uint8(s.MaxPrivLevel)),
				Enabled: s.IPMIMessagingEnabled && uint8(s.MaxPrivLevel) != noAccess,
			})
		}
	}
	return users, nil
}

// slot returns the ID of the slot with a name.
func (d *Driver) slot(ctx context.Context, name string) (uint8, error) {
	slots, err := d.slots(ctx)
	if err != nil {
		return 0, err
	}
	for _, s := range slots {
		if name != "" && clean(s.Name) == name {
			return s.ID, nil
		}
	}
	return 0, fmt.Errorf("%s: user %q: %w", Name, name, bmc.ErrNotFound)
}

// CreateUser fills the first free slot but the first, which is the user without
// a name. The access comes last: a user that was made half-way can't log in.
func (d *Driver) CreateUser(ctx context.Context, name, password string, role bmc.Role) error {
	level, ok := privileges[role]
	if !ok {
		return fmt.Errorf("%s: no user can be made with role %q: use administrator, operator or read-only", Name, role)
	}
	if len(name) > MaxName || name == "" {
		return fmt.Errorf("%s: user name must have 1 to %d bytes", Name, MaxName)
	}
	slots, err := d.slots(ctx)
	if err != nil {
		return err
	}
	var free uint8
	for _, s := range slots {
		if s.Name == name {
			return fmt.Errorf("%s: user %q exists already", Name, name)
		}
		if free == 0 && s.ID > 1 && clean(s.Name) == "" {
			free = s.ID
		}
	}
	if free == 0 {
		return fmt.Errorf("%s: all %d user slots are taken: delete a user first", Name, len(slots))
	}
	if err := d.do(ctx, "naming user", func(ctx context.Context) error {
		_, err := d.c.SetUsername(ctx, free, name)
		return err
	}); err != nil {
		return err
	}
	if err := d.setPassword(ctx, free, password); err != nil {
		return err
	}
	return d.grant(ctx, free, level)
}

// grant gives a slot access to this channel and to SOL, and enables it.
func (d *Driver) grant(ctx context.Context, id uint8, level types.PrivilegeLevel) error {
	return d.do(ctx, "user access", func(ctx context.Context) error {
		_, err := d.c.SetUserAccess(ctx, &app.SetUserAccessRequest{
			EnableChanging: true, EnableIPMIMessaging: true, EnableLinkAuth: true,
			ChannelNumber: types.ChannelNumberSelf, UserID: id, MaxPrivLevel: uint8(level),
		})
		if err != nil {
			return err
		}
		// The library's SetUserPayloadAccess sends an empty request (v0.9.1).
		err = d.c.Exchange(ctx, &app.SetUserPayloadAccessRequest{
			ChannelNumber: types.ChannelNumberSelf, UserID: id,
			Operation: app.SetUserPayloadAccessOperationEnable, PayloadTypeSOL: true,
		}, &app.SetUserPayloadAccessResponse{})
		if _, answered := types.IsResponseError(err); err != nil && !answered {
			return err // a BMC without this command gives everybody SOL
		}
		return d.c.EnableUser(ctx, id)
	})
}

// SetPassword writes a slot's password (§22.30).
func (d *Driver) SetPassword(ctx context.Context, name, password string) error {
	id, err := d.slot(ctx, name)
	if err != nil {
		return err
	}
	return d.setPassword(ctx, id, password)
}

func (d *Driver) setPassword(ctx context.Context, id uint8, password string) error {
	if len(password) > MaxPassword || password == "" {
		return fmt.Errorf("%s: password must have 1 to %d bytes", Name, MaxPassword)
	}
	d.secret = append(d.secret, password)
	return d.do(ctx, "password", func(ctx context.Context) error {
		// As 20 bytes, which every IPMI 2.0 session uses; a BMC with room for 16 refuses longer ones.
		_, err := d.c.SetUserPassword(ctx, id, password, true)
		if isCode(err, types.CodeRequestDataLengthInvalid, types.CodeRequestDataFieldInvalid) && len(password) <= 16 {
			_, err = d.c.SetUserPassword(ctx, id, password, false)
		}
		return err
	})
}

// DeleteUser takes a slot's access and name away.
func (d *Driver) DeleteUser(ctx context.Context, name string) error {
	id, err := d.slot(ctx, name)
	if err != nil {
		return err
	}
	return d.do(ctx, "deleting user", func(ctx context.Context) error {
		if err := d.c.DisableUser(ctx, id); err != nil {
			return err
		}
		_, err := d.c.SetUserAccess(ctx, &app.SetUserAccessRequest{
			EnableChanging: true, ChannelNumber: types.ChannelNumberSelf, UserID: id, MaxPrivLevel: noAccess,
		})
		if err != nil {
			return err
		}
		_, err = d.c.SetUsername(ctx, id, "")
		return err
	})
}
