package ipmi

import (
	"bytes"

	"github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/bedplate/bedplate/lab/board"
)

// The board's accounts are the truth; the library has a copy of them by slot.
// What clients change by IPMI goes from the copy to the board as soon as it is
// whole: a user has its name first, then a password, then a privilege.

var privileges = map[board.Role]bmc.PrivilegeLevel{
	board.Administrator: bmc.PrivilegeLevelAdministrator,
	board.Operator:      bmc.PrivilegeLevelOperator,
	board.ReadOnly:      bmc.PrivilegeLevelUser,
	board.NoAccess:      bmc.PrivilegeLevelNoAccess,
}

// pushUsers makes the copy what the board has.
func (s *Server) pushUsers() {
	accounts := s.board.Accounts()
	_, refuse := s.board.Fault(board.FaultUnauthorized)
	s.mu.Lock()
	defer s.mu.Unlock()
	// The nameless user can't log in (§6.9.1).
	_ = s.bmc.Users.Update(1, func(u *bmc.User) error { u.Enabled = false; return nil })
	there := map[uint8]bool{}
	for _, a := range accounts {
		id := uint8(a.ID)
		there[id] = true
		err := s.bmc.Users.Upsert(id, func(u *bmc.User) error {
			u.Name, u.Enabled = a.Username, a.Enabled
			password := []byte(a.Password)
			if refuse { // it doesn't know its passwords any more
				password = []byte("\x00refused")
			}
			if len(password) <= 16 {
				password = append(password, make([]byte, 16-len(password))...)
			} else {
				password = append(password, make([]byte, 20-len(password))...)
			}
			u.SetPassword(password)
			u.ChannelAccess[lanChannel] = bmc.UserChannelAccess{
				MaxPrivilege: privileges[a.Role], Enabled: a.Role != board.NoAccess, LinkAuth: true,
			}
			return nil
		})
		if err != nil {
			s.log.Warn("copying an account for IPMI", "err", err)
		}
	}
	for id := range s.known {
		if !there[id] {
			_ = s.bmc.Users.Delete(id) // it is gone
		}
	}
	s.known = there
}

// changesUsers reports whether a command is one of §22.26, §22.28 and §22.30.
func changesUsers(c types.Command) bool {
	return c.NetFn == types.NetFnAppRequest &&
		(c.ID == types.CommandSetUserAccess.ID || c.ID == types.CommandSetUsername.ID || c.ID == types.CommandSetUserPassword.ID)
}

// pullUser gives the board what a command has changed in the copy. request
// begins with the slot, but for Set User Access, where it is the second byte.
func (s *Server) pullUser(request []byte) types.CompletionCode {
	for i := range min(2, len(request)) {
		if code := s.pullSlot(request[i] & 0x3f); code != types.CodeOK {
			return code
		}
	}
	return types.CodeOK
}

func (s *Server) pullSlot(id uint8) types.CompletionCode {
	u, err := s.bmc.Users.Get(id)
	if err != nil || id < 2 {
		return types.CodeOK
	}
	was, missing := s.board.Account(int(id))
	password := string(bytes.TrimRight(u.Password[:], "\x00"))
	if _, refuse := s.board.Fault(board.FaultUnauthorized); refuse {
		password = was.Password
	}
	if u.Name == "" {
		if missing != nil {
			return types.CodeOK
		}
		err = s.board.DeleteAccount(int(id))
	} else if password != "" {
		access := u.ChannelAccess[lanChannel]
		a := board.Account{ID: int(id), Username: u.Name, Password: password, Enabled: u.Enabled && access.Enabled, Role: board.NoAccess}
		for role, p := range privileges {
			if p == access.MaxPrivilege {
				a.Role = role
			}
		}
		if a == was {
			return types.CodeOK
		}
		_, err = s.board.PutAccount(a)
	}
	if err != nil {
		s.pushUsers()
		return types.CodeRequestDataFieldInvalid
	}
	return types.CodeOK
}
