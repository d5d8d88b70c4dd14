package dataset

import (
	"context"

	"github.com/srpo-dev/srpo/plugins"
)

// Reader runs the program that reads parquet and video.
type Reader struct{}

func openLeRobot(_ context.Context, dir string, _ Options) (Set, error) {
	return nil, plugins.Errorf(plugins.Unsupported, "not read yet").WithPlace("%s", dir)
}
