# Makes `venv/`: an interpreter that finds torch and what `compat` needs, and its user site, in other environments.
base=$($TORCH_PYTHON -c 'import sys; print(sys.base_prefix)')
"$base/bin/python3" -m venv --system-site-packages --without-pip venv
for python in "$TORCH_PYTHON" "$HOST_PYTHON"; do
  $python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
done > "$(echo venv/lib/python3*/site-packages)/others.pth"
