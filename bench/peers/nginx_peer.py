"""nginx, one worker, logging every body as it arrives, unescaped: the least it can do. It checks nothing.

nginx reads a body only for whoever needs it. Here that is `mirror`; the static handler then refuses POST, and the
refusal is answered as 200. None of it needs a module that Debian's package lacks.
"""

import os
import sys
from pathlib import Path
from string import Template
from typing import Final

CONFIGURATION: Final = Template("""
daemon off;
worker_processes 1;
pid $data.pid;
error_log $data.error;
events { worker_connections 12000; }
http {
    log_format body escape=none '$$request_uri $$request_body';
    access_log $data body buffer=64k;
    client_body_temp_path $data.body;
    proxy_temp_path $data.proxy;
    fastcgi_temp_path $data.fastcgi;
    uwsgi_temp_path $data.uwsgi;
    scgi_temp_path $data.scgi;
    client_body_buffer_size 64k;
    client_body_in_single_buffer on;
    client_max_body_size 20m;
    large_client_header_buffers 4 16k;
    keepalive_requests 1000000000;
    server {
        listen 127.0.0.1:$port backlog=1024;
        location / {
            root /nonexistent;
            mirror /mirror;
            error_page 403 404 405 =200 @answer;
        }
        location = /mirror { internal; return 204; }
        location @answer { default_type application/json; return 200 '{"status":1}'; }
    }
}
""")

if __name__ == "__main__":
    data = os.environ["BENCH_DATA"]
    configuration = Path(f"{data}.conf")
    configuration.write_text(CONFIGURATION.substitute(data=data, port=sys.argv[1]))
    os.execvp("nginx", ["nginx", "-c", str(configuration), "-e", f"{data}.error"])
