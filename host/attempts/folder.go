package attempts

import "github.com/srpo-dev/srpo/plugins"

func readFolder(path string) (*List, error) {
	return nil, plugins.Errorf(plugins.Unsupported, "folders come next").WithPlace("%s", path)
}
