package session

import (
	"strings"

	"github.com/srpo-dev/srpo/plugins"
)

// IsUserError reports whether an error is a mistake that the user can correct without the contents of folder,
// which the error does not mention.
func IsUserError(err error, folder string) bool {
	if err == nil {
		return false
	}
	e := plugins.AsError(err)
	switch e.Kind {
	case plugins.Invalid, plugins.NotFound, plugins.Unsupported, plugins.Mismatch:
		return !strings.Contains(e.Message+" "+e.Place+" "+e.Hint+" "+e.Detail, folder)
	}
	return false
}
