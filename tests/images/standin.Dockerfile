# The servers of the tests as an image, for machines that reach no registry. Libraries come from the machine that has the servers.
ARG BASE_IMAGE=base
FROM ${BASE_IMAGE}
COPY . /standin/
ENV PATH=/standin:/usr/local/bin:/usr/bin:/bin LD_LIBRARY_PATH=/standin/lib
RUN mkdir -p /data/db && chown 999:999 /data/db
